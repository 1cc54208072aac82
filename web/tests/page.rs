//! The page in a real browser, headless Chromium: what it shows, light and dark, on a desk and at 390 pixels.
//!
//! Another page, of the test's own, has it in a frame, waits until it is drawn, and writes down what it measures there.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

mod common;
use common::{Service, targets};
use serde_json::Value;

/// Passes requests on to the page, but for one path, which is the test's own page: so both are of one origin.
fn relay(service: &Service, probe: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let (port, to) = (listener.local_addr().expect("bound").port(), service.address);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let probe = probe.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                if path == "/probe" {
                    let _ = write!(
                        client,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{probe}",
                        probe.len()
                    );
                    return;
                }
                let mut server = std::net::TcpStream::connect(to).expect("connected");
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                server.write_all(request.as_bytes()).expect("sent");
                let _ = std::io::copy(&mut server, &mut client);
            });
        }
    });
    port
}

/// Shows the page in a frame of some width, and evaluates an expression in which `page` is its document and `view` its window.
fn measure(service: &Service, width: u32, dark: bool, expression: &str) -> Value {
    let probe = format!(
        "<!doctype html><body><iframe id=f src=/ style='width:{width}px;height:900px;border:0'></iframe><script>
        const look = () => {{
          const view = document.getElementById('f').contentWindow, page = view.document;
          if (page.body && page.body.dataset.drawn) Promise.resolve({expression}).then(found => {{
            document.getElementById('out').textContent = 'MEASURED' + JSON.stringify(found) + 'END'; }});
          else setTimeout(look, 20);
        }};
        look();
        </script><pre id=out></pre>"
    );
    let port = relay(service, probe);
    let profile = tempfile::tempdir().expect("made");
    let mut chromium = Command::new("timeout");
    chromium.args([
        "-k",
        "5",
        "120",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ]);
    chromium.args(["--no-first-run", "--disable-background-networking", "--virtual-time-budget=8000", "--dump-dom"]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    }
    chromium.arg(format!("http://localhost:{port}/probe"));
    let output = chromium.stdin(Stdio::null()).output().expect("chromium starts (Debian's package chromium)");
    let dom = String::from_utf8_lossy(&output.stdout);
    // The script's own text has the word too, and stands before it.
    let found = dom.rsplit_once("MEASURED").and_then(|(_, rest)| rest.split_once("END")).map(|(found, _)| found);
    let found =
        found.unwrap_or_else(|| panic!("nothing was measured: {dom}\n{}", String::from_utf8_lossy(&output.stderr)));
    let text = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_page_shows_every_target_what_runs_and_what_was() {
    let service = Service::start(targets());
    let seen = measure(
        &service,
        1100,
        false,
        "({text: page.body.innerText, bars: page.querySelectorAll('.timeline rect').length, \
          value: page.querySelector('progress').value, states: [...page.querySelectorAll('.state')].map(s => s.textContent), \
          markup: page.querySelectorAll('h2 b').length, names: [...page.querySelectorAll('h2')].map(h => h.textContent)})",
    );
    let text = seen["text"].as_str().expect("text");
    for words in ["50 % of 3.0 GiB", "100.0 MiB/s", "15 s", "10 h ago", "track", "Longest wait", "4711"] {
        assert!(text.contains(words), "{words:?} is not in {text}");
    }
    assert_eq!(seen["states"], serde_json::json!(["backup running", "last backup failed", "server not running"]));
    assert_eq!((&seen["bars"], &seen["value"]), (&5.into(), &(3_u64 << 29).into()));
    assert_eq!(seen["markup"], 0, "a name became markup");
    assert!(seen["names"][1].as_str().expect("text").ends_with("<b>&"), "{}", seen["names"][1]);
}

#[test]
fn at_390_pixels_nothing_is_wider_than_the_page() {
    let service = Service::start(targets());
    let wide = measure(
        &service,
        390,
        false,
        "({page: page.documentElement.scrollWidth - page.documentElement.clientWidth, wide: [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 390.5).map(e => e.outerHTML.slice(0, 80))})",
    );
    assert_eq!(wide["page"], 0, "it can be moved sideways: {wide}");
    assert_eq!(wide["wide"], serde_json::json!([]), "{wide}");
}

/// How well text can be told from its ground, as WCAG counts it.
fn contrast(colours: &Value) -> f64 {
    let luminance = |colour: &str| {
        let parts: Vec<f64> = colour
            .trim_matches(|c: char| !c.is_ascii_digit())
            .split(',')
            .map(|part| part.trim().parse::<f64>().expect("a number") / 255.0)
            .map(|part| if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) })
            .collect();
        0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    };
    let (a, b) = (luminance(colours[0].as_str().expect("text")), luminance(colours[1].as_str().expect("text")));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn light_and_dark_are_what_they_say_and_can_be_read() {
    let service = Service::start(targets());
    let mut grounds = Vec::new();
    for dark in [false, true] {
        let seen = measure(
            &service,
            1100,
            dark,
            "({ground: view.getComputedStyle(page.body).backgroundColor, pairs: \
              ['.state.busy', '.state.bad', 'dt', 'dd', 'h2', 'summary'].map(s => [view.getComputedStyle(page.querySelector(s)).color, \
              view.getComputedStyle(page.querySelector('section')).backgroundColor])})",
        );
        for pair in seen["pairs"].as_array().expect("a list") {
            assert!(contrast(pair) >= 4.5, "{pair} has a contrast of {:.1}", contrast(pair));
        }
        grounds.push(seen["ground"].clone());
    }
    assert!(contrast(&serde_json::json!(grounds)) > 10.0, "{grounds:?} are not light and dark");
}

#[test]
fn a_service_that_is_gone_is_told() {
    let service = Service::start(targets());
    let words = measure(
        &service,
        1100,
        false,
        "(async () => { view.fetch = () => Promise.reject(new Error('refused')); await view.draw(); \
          const when = page.getElementById('when'); return [when.className, when.textContent]; })()",
    );
    assert_eq!(words[0], "lost");
    assert_eq!(words[1], "The service does not answer (refused); what stands here is old.");
}
