//! URLs and addresses: what is read reads back as the same, can be sent to, and shows no password.

#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use proa::endpoint::{Address, HttpUrl, Method, Request, without_secrets};
use proa::transport::address as to_whom;

fn check(url: &HttpUrl) {
    assert_eq!(url.as_str().parse::<HttpUrl>().as_ref(), Ok(url));
    let address = url.address();
    assert_ne!(address.port, 0, "{url:?}");
    assert_eq!(address.to_string().parse::<Address>().as_ref(), Ok(&address), "{url:?}");
    assert!(url.path().starts_with('/'), "{url:?}");
    let sent = url.for_request();
    if let Ok(sent) = Uri::try_from(&sent) {
        assert_eq!(to_whom(&sent), Ok(address), "{url:?}");
    }
    let sent = url::Url::parse(&sent).expect("what is sent");
    assert!(sent.username().is_empty() && sent.password().is_none() && sent.fragment().is_none(), "{sent}");
    // Elsewhere than shown it must not go.
    assert_eq!(sent.host_str(), url::Url::parse(url.as_str()).expect("a URL").host_str());
    let shown = url::Url::parse(&url.to_string()).expect("what is shown");
    assert!(shown.username().is_empty() && shown.password().is_none(), "{shown}");
    assert!(shown.query().is_none_or(|query| query == "..."), "{shown}");
    let request = Request::new(Method::Get, url.clone());
    assert_eq!(request.goes_where(&request), url.is_loopback());
}

fuzz_target!(|text: &str| {
    if let Ok(url) = text.parse::<HttpUrl>() {
        check(&url);
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_ne!(address.port, 0);
        assert_eq!(address.to_string().parse::<Address>(), Ok(address.clone()), "{text:?}");
    }
    check(&HttpUrl::on_loopback(u16::try_from(text.len() % 65535).expect("16 bits") + 1, text));

    // A password, whatever stands in it and around it, and whether or not that is a URL.
    let mut parts = text.splitn(3, '\n');
    let mut part = || {
        let mut part = parts.next().unwrap_or_default().to_owned();
        while part.contains("hunter2") {
            part = part.replace("hunter2", "");
        }
        part
    };
    let (before, after, rest) = (part(), part(), part());
    let login = format!("http://user:{before}hunter2{after}@{rest}");
    // Where this is a URL, what stands before the sign may be its path; and a host is read in more ways than one.
    let login_has_it = login.parse::<HttpUrl>().map_or(true, |url| {
        url.login().is_some_and(|login| String::from_utf8_lossy(&login).contains("hunter2"))
    });
    let is_elsewhere =
        |url: url::Url| [url.path(), url.host_str().unwrap_or_default()].join(" ").contains("hunter2");
    if login_has_it && url::Url::parse(&login).is_ok_and(is_elsewhere) {
        return;
    }
    if login_has_it {
        assert!(!without_secrets(&login).contains("hunter2"), "{login:?} {:?}", without_secrets(&login));
        if let Ok(url) = login.parse::<HttpUrl>() {
            assert!(!url.to_string().contains("hunter2"), "{url}");
        }
    }
});
