//! What the port answers: the numbers, the state, and no to what it should not.
#![forbid(unsafe_code)]

use std::io::{Read, Write};

mod common;
use common::{Service, now, targets};

#[test]
fn the_numbers_are_those_of_what_there_is_to_see() {
    let service = Service::start(targets());
    let (head, body) = service.get("/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    let good = now().as_second() - 10 * 3600;
    for line in [
        "hotbackup_target_up{target=\"orders\"} 1",
        "hotbackup_target_up{target=\"archive\"} 0",
        "hotbackup_backup_running{target=\"orders\"} 1",
        "hotbackup_due_bytes{target=\"orders\"} 1610612736",
        "hotbackup_last_good_backup_age_seconds{target=\"orders\"} 36000.0",
        "hotbackup_last_good_backup_duration_seconds{target=\"orders\"} 85.0",
        "hotbackup_last_good_backup_size_bytes{target=\"orders\"} 3221225472",
        "hotbackup_backups_total{target=\"orders\",outcome=\"success\",cause=\"\"} 2",
        "hotbackup_backups_total{target=\"orders\",outcome=\"failure\",cause=\"dest_full\"} 1",
        "hotbackup_hold_seconds_bucket{le=\"0.0005\",target=\"orders\"} 0",
        "hotbackup_hold_seconds_bucket{le=\"0.001\",target=\"orders\"} 2",
        "hotbackup_longest_wait_seconds_count{target=\"orders\"} 2",
        "hotbackup_waited_seconds{target=\"orders\"} 0.0009",
        "hotbackup_held_seconds{target=\"orders\"} 0.0",
        "hotbackup_retries_total{target=\"orders\"} 1",
        "hotbackup_retry_pending{target=\"orders\"} 1",
        "hotbackup_retry_pending{target=\"archive\"} 0",
        &format!("hotbackup_last_good_backup_timestamp_seconds{{target=\"orders\"}} {good}.0"),
        "# EOF",
    ] {
        assert!(body.lines().any(|found| found == line), "no {line:?} in\n{body}");
    }
    assert!(!body.contains("last_good_backup_age_seconds{target=\"archive\"}"), "it has none:\n{body}");
}

#[test]
fn the_state_is_json_and_changes_with_what_there_is() {
    let service = Service::start(targets());
    let (_, body) = service.get("/status.json");
    let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status["targets"][0]["running"]["phase"], "track");
    assert_eq!(status["targets"][0]["history"][1]["cause"], "dest_full");
    service.state.0.lock().expect("not poisoned").clear();
    let (_, body) = service.get("/status.json");
    let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status["targets"], serde_json::json!([]));
}

#[test]
fn nothing_can_be_changed_and_no_other_path_is_there() {
    let service = Service::start(targets());
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(service.send(request.as_bytes()).0.starts_with("HTTP/1.1 405"), "{method}");
    }
    for path in ["/nothing", "/../../etc/passwd", "/page/page.js"] {
        assert!(service.get(path).0.starts_with("HTTP/1.1 404"), "{path}");
    }
    let body = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    assert!(service.send(body.as_bytes()).0.starts_with("HTTP/1.1 413"));
}

#[test]
fn a_page_of_another_host_cannot_read_it() {
    let service = Service::start(targets());
    for host in ["example.com", "localhost.example.com:80", "10.0.0.1"] {
        let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (head, body) = service.send(request.as_bytes());
        assert!(head.starts_with("HTTP/1.1 403") && !body.contains("orders"), "{host}: {head}");
    }
    let (head, _) = service.get("/");
    for told in
        ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "cache-control: no-store"]
    {
        assert!(head.to_lowercase().contains(told), "{told} is not in\n{head}");
    }
}

#[test]
fn what_is_no_http_harms_nobody() {
    let service = Service::start(targets());
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET", b"\r\n\r\n\r\n", &[b'A'; 100_000]] {
        let mut stream = std::net::TcpStream::connect(service.address).expect("connected");
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(service.get("/metrics").0.starts_with("HTTP/1.1 200"));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let service = Service::start(Vec::new());
    let error = hotbackup_web::serve(service.address, service.state.clone()).expect_err("taken").to_string();
    assert!(error.contains(&service.address.to_string()) && error.contains("name another address"), "{error}");
}

/// What docs/monitoring asks for is what there is.
#[test]
fn the_alerts_and_the_dashboard_ask_for_metrics_that_exist() {
    let service = Service::start(targets());
    let (_, body) = service.get("/metrics");
    let there: Vec<&str> = body.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    for file in ["alerts.yml", "grafana.json"] {
        let text = std::fs::read_to_string(format!("{}/../docs/monitoring/{file}", env!("CARGO_MANIFEST_DIR")))
            .expect("there");
        let names: Vec<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("hotbackup_"))
            .collect();
        assert!(names.len() >= 5, "{file} asks for {names:?}");
        for name in names {
            assert!(there.contains(&name), "{file} asks for {name}");
        }
    }
}

/// Room for so many descriptors.
const SILENT: usize = 1000;

#[test]
fn a_thousand_connections_that_say_nothing_keep_nobody_out() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).expect("room for all of them");
    let service = Service::start(targets());
    let open = || std::fs::read_dir("/proc/self/fd").expect("there").count();
    let before = open();
    // One who has asked, and goes on asking on the same connection.
    let mut asks = std::net::TcpStream::connect(service.address).expect("connected");
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = std::net::TcpStream::connect(service.address).expect("connected");
        stream.write_all(&b"GET / HT"[..number % 9]).expect("sent");
        silent.push(stream);
        if number % 50 == 0 {
            assert!(ask_again(&mut asks).starts_with("HTTP/1.1 200"), "{number}: it goes on");
        }
    }
    // And one who comes when they are all there.
    assert!(service.get("/metrics").0.starts_with("HTTP/1.1 200"));
    assert!(ask_again(&mut asks).starts_with("HTTP/1.1 200"));
    // Both ends are in this process, as are those of other tests: the other side has few.
    let mine = SILENT + 1;
    until("those without a seat are gone", || open() <= before + mine + 400);
}

/// Asks on a connection that stays.
fn ask_again(stream: &mut std::net::TcpStream) -> String {
    stream.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1, "it was closed");
        answer.extend(byte);
    }
    String::from_utf8(answer).expect("text")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_request_that_does_not_come_to_its_end_is_not_waited_for() {
    let service = Service::start(targets());
    let connect = || std::net::TcpStream::connect(service.address).expect("connected");
    // Nothing; a beginning; and nothing more after an answer.
    let (mut nothing, mut half, mut answered) = (connect(), connect(), connect());
    half.write_all(b"GET / HTTP/1.1\r\nHost: loc").expect("sent");
    assert!(ask_again(&mut answered).starts_with("HTTP/1.1 200"));
    for stream in [&mut nothing, &mut half, &mut answered] {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("set");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed");
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
    // A byte now and then does not keep it open.
    let mut slow = connect();
    until("it is closed", || slow.write_all(b"x").is_err());
}

#[test]
fn of_a_long_history_the_newest_part_is_told_and_all_of_it_is_counted() {
    let service = Service::start(targets());
    let long: Vec<_> =
        service.state.0.lock().expect("not poisoned")[0].history.iter().cycle().take(4096).cloned().collect();
    service.state.0.lock().expect("not poisoned")[0].history = long;
    let (_, body) = service.get("/status.json");
    let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let told = status["targets"][0]["history"].as_array().expect("a list");
    assert_eq!(told.len(), 400);
    assert_eq!(told[399], status["targets"][0]["history"][399]);
    let (_, body) = service.get("/metrics");
    let count = |line: &str| {
        body.lines().find_map(|found| found.strip_prefix(line)?.trim().parse::<u32>().ok()).expect("there")
    };
    let all = count("hotbackup_backups_total{target=\"orders\",outcome=\"success\",cause=\"\"}")
        + count("hotbackup_backups_total{target=\"orders\",outcome=\"failure\",cause=\"dest_full\"}");
    assert_eq!(all, 4096);
}
