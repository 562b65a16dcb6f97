//! What the request log says: entries of exchanges, and the stream of events.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::http1::read_head;
use super::{Caller, Proxy, TIMEOUT};

impl Proxy {
    /// A JSON body of the admin listener.
    pub async fn admin_json(&self, path: &str) -> Value {
        let response = self.admin(Method::GET, path, None).await;
        assert_eq!(response.status(), 200, "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    /// The entry of an exchange once it has ended.
    pub async fn exchange(&self, id: &str) -> Value {
        self.exchange_detail(id).await["entry"].clone()
    }

    /// The same with reason and capture.
    pub async fn exchange_detail(&self, id: &str) -> Value {
        let path = format!("/api/requests/{id}");
        let start = Instant::now();
        loop {
            let detail: Value =
                self.admin(Method::GET, &path, None).await.json().await.unwrap_or_default();
            if detail["entry"]["running"] == false {
                return detail;
            }
            assert!(start.elapsed() < TIMEOUT, "{id} has not ended: {detail}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The entries that a filter chooses, newest first, once there are so many.
    pub async fn exchanges(&self, filter: &str, count: usize) -> Vec<Value> {
        let filter = filter.replace(' ', "+").replace('>', "%3E").replace('=', "%3D");
        let path = format!("/api/requests?limit=1000&filter={filter}");
        let start = Instant::now();
        loop {
            let found = self.admin_json(&path).await["entries"].as_array().unwrap().clone();
            if found.len() >= count {
                return found;
            }
            assert!(start.elapsed() < TIMEOUT, "{} of {count} chosen by {filter}", found.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends so many requests, one after another on one connection, to targets that count up.
    pub fn send_numbered(&self, count: usize) {
        let mut caller = Caller::of(self);
        for number in 0..count {
            assert_eq!(caller.get(&format!("/v1/n/{number}")).status, 200);
        }
    }

    /// The number of the newest exchange in the log.
    pub async fn last_seq(&self) -> u64 {
        self.admin_json("/api/requests?limit=0").await["last_seq"].as_u64().unwrap()
    }

    /// Waits until the log has so many exchanges, and no more.
    pub async fn wait_for_seq(&self, seq: u64) {
        let start = Instant::now();
        while self.last_seq().await < seq {
            assert!(start.elapsed() < TIMEOUT, "{seq} exchanges were not logged");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.last_seq().await, seq);
    }

    /// Keeps headers and bodies from now on.
    pub async fn capture(&self, seconds: u64, account: Option<&str>) {
        let body = json!({"for_s": seconds, "account": account});
        let started = self.admin(Method::POST, "/api/capture", Some(body)).await;
        assert_eq!(started.status(), 200);
    }
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

/// A reader of `GET /api/events`.
pub struct Events {
    wire: BufReader<TcpStream>,
    text: String,
    /// Comment lines so far: heartbeats.
    pub comments: usize,
    /// The id that a browser would send as `Last-Event-ID`.
    pub last_id: Option<String>,
    /// It had its last chunk.
    pub ended_in_order: bool,
}

impl Events {
    /// Opens the stream with this query, and goes on after the event `last`.
    pub fn open(proxy: &Proxy, query: &str, last: Option<&str>) -> Self {
        let stream = TcpStream::connect(proxy.admin_address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut wire = BufReader::new(stream);
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /api/events{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{last}\r\n",
            proxy.admin_address(),
            proxy.key
        );
        wire.get_mut().write_all(head.as_bytes()).unwrap();
        let head = read_head(&mut wire).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        Self { wire, text: String::new(), comments: 0, last_id: None, ended_in_order: false }
    }

    /// The next event; none at the end of the stream.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.buffered() {
                return Some(event);
            }
            if !self.read_chunk().unwrap_or(false) {
                return None;
            }
        }
    }

    /// The next event, if it has been read already.
    pub fn buffered(&mut self) -> Option<Event> {
        while let Some((block, rest)) = self.text.split_once("\n\n") {
            let (block, rest) = (block.to_owned(), rest.to_owned());
            self.text = rest;
            if let Some(event) = self.event(&block) {
                return Some(event);
            }
        }
        None
    }

    /// The next event with this name.
    pub fn next_named(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.name == name {
                return event;
            }
        }
    }

    /// Numbers of exchanges in the order in which they come, until there are so many.
    pub fn seqs(&mut self, count: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < count {
            let entries = self.next_named("entries").data;
            seqs.extend(entries.as_array().unwrap().iter().map(|it| it["seq"].as_u64().unwrap()));
        }
        seqs
    }

    /// Reads on until the stream says something, whatever it is; false at its end.
    pub fn read_chunk(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if self.wire.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.wire.read_exact(&mut chunk)?;
        self.text.push_str(&String::from_utf8_lossy(&chunk[..size]));
        self.ended_in_order = size == 0;
        Ok(size > 0)
    }

    fn event(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        for line in block.lines() {
            match line.split_once(':') {
                Some(("", _)) => self.comments += 1,
                Some(("event", value)) => name = value.trim().to_owned(),
                Some(("id", value)) => id = Some(value.trim().to_owned()),
                Some(("data", value)) => data.push_str(value.trim()),
                _ => panic!("no line of an event: {line}"),
            }
        }
        if id.is_some() {
            self.last_id.clone_from(&id);
        }
        let data = serde_json::from_str(&data).ok()?;
        Some(Event { name, id, data })
    }
}
