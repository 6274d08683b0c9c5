//! What a run writes into a Markdown file, between marks.

use std::fs;

use anyhow::{Context, Result, ensure};

/// Puts each text between the marks of its name, `<!-- name -->` and `<!-- end of name -->`, wherever the files have them.
pub(crate) fn write(files: &[String], texts: &[(&str, &str)]) -> Result<()> {
    for file in files {
        let mut page = fs::read_to_string(file).with_context(|| file.clone())?;
        let mut written = 0;
        for (name, text) in texts {
            let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"));
            let Some((before, rest)) = page.split_once(&begin) else { continue };
            let (_, after) = rest.split_once(&end).with_context(|| format!("no {end} in {file}"))?;
            page = format!("{before}{begin}\n{text}{end}{after}");
            written += 1;
        }
        ensure!(
            written > 0,
            "{file} has no mark of {:?}",
            texts.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        fs::write(file, page)?;
    }
    Ok(())
}

/// The files that follow `--write`, each time that it is there.
pub(crate) fn asked(arguments: &mut Vec<String>) -> Result<Vec<String>> {
    let mut files = Vec::new();
    while let Some(at) = arguments.iter().position(|word| word == "--write") {
        ensure!(at + 1 < arguments.len(), "expected a file after --write");
        arguments.remove(at);
        files.push(arguments.remove(at));
    }
    Ok(files)
}
