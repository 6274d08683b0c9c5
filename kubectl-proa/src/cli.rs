//! What was asked: the command line and its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::workload::Elsewhere;

/// Finds Pods that hang or lose their network because of a sidecar, and says
/// what to change.
#[derive(Debug, Parser)]
#[command(name = "kubectl-proa", bin_name = "kubectl proa", version, term_width = 80)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Find what is wrong: one finding for each rule that a Pod template breaks
    #[command(after_help = AFTER_CHECK_HELP, disable_help_subcommand = true)]
    Check {
        /// How to print the findings
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: Format,
        /// What to read
        #[command(flatten)]
        input: Input,
    },
    /// Say which form of proa each Pod template needs, if any, and why
    #[command(after_help = AFTER_PLAN_HELP)]
    Plan {
        /// How to print the proposals
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: PlanFormat,
        /// proa's image, for the proposals that need it
        #[arg(long, value_name = "IMAGE", default_value = "proa")]
        image: String,
        /// A container that is a sidecar, though nothing shows it; repeatable
        #[arg(long, value_name = "NAME")]
        sidecar: Vec<String>,
        /// What to read
        #[command(flatten)]
        input: Input,
    },
    /// List the rules
    Rules,
}

const AFTER_CHECK_HELP: &str = "\
Exit codes: 0 no error and no warning was found, 1 at least one was, 2 something
could not be read. A note changes no exit code.

  kubectl proa check -f job.yaml
  helm template my-chart | kubectl proa check -f -
  kubectl proa check cronjob/backup -n jobs
  kubectl proa check -R -f deploy/ -o sarif >proa.sarif";

const AFTER_PLAN_HELP: &str = "\
Exit codes: 0, or 2 if something could not be read.

  kubectl proa plan -f job.yaml
  kubectl proa plan -f job.yaml -o json";

/// Where the manifests come from.
#[derive(Debug, Args)]
pub struct Input {
    /// A file, a folder, or - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Read folders within folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Where a custom kind has its Pod template; repeatable
    #[arg(long, value_name = "KIND=PATH")]
    pub template: Vec<Elsewhere>,
    /// Objects of the cluster, as `kubectl get` takes them: TYPE/NAME, or TYPE
    #[arg(value_name = "RESOURCE", conflicts_with_all = ["files", "recursive"])]
    pub resources: Vec<String>,
    /// Their namespace
    #[arg(short, long, value_name = "NAME", help_heading = "Objects of the cluster")]
    pub namespace: Option<String>,
    /// Those of all namespaces
    #[arg(short = 'A', long, help_heading = "Objects of the cluster")]
    pub all_namespaces: bool,
    /// Those with these labels
    #[arg(short = 'l', long, value_name = "LABELS", help_heading = "Objects of the cluster")]
    pub selector: Option<String>,
    /// The kubeconfig's context
    #[arg(long, value_name = "NAME", help_heading = "Objects of the cluster")]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, value_name = "PATH", help_heading = "Objects of the cluster")]
    pub kubeconfig: Option<PathBuf>,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// An array of objects
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// How proposals are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people, with YAML to paste
    Text,
    /// An array of objects, each with a JSON Patch (RFC 6902)
    Json,
}
