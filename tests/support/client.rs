//! A client that sends exactly the bytes a test gives it.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::raw_org::read_until;

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// One call on a connection of its own. `lines`: request line and headers, without `Host`.
pub async fn call(address: SocketAddr, lines: &str, body: &[u8]) -> Reply {
    let mut stream = connect(address).await;
    let head = lines.trim().replace('\n', "\r\n");
    stream
        .write_all(format!("{head}\r\nHost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(body).await.unwrap();
    let is_head = lines.trim_start().starts_with("HEAD");
    read_reply(&mut stream, is_head).await.expect("an answer")
}

/// One call without a body on a kept connection.
pub async fn ask(stream: &mut TcpStream, line: &str) -> Reply {
    let request = format!("{line}\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_reply(stream, false).await.expect("an answer")
}

/// Reads one answer; `None` when the connection ended before it. 1xx answers are passed over.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin), to_head: bool) -> Option<Reply> {
    let mut buffer = Vec::new();
    read_reply_from(stream, &mut buffer, to_head).await
}

pub async fn read_reply_from(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    to_head: bool,
) -> Option<Reply> {
    loop {
        let head = read_until(stream, buffer, b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status < 200 {
            continue;
        }
        let mut reply = Reply {
            status,
            head,
            body: Vec::new(),
            trailers: String::new(),
        };
        if to_head || status == 204 || status == 304 {
            return Some(reply);
        }
        read_reply_body(stream, buffer, &mut reply).await?;
        return Some(reply);
    }
}

async fn read_reply_body(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, reply: &mut Reply) -> Option<()> {
    if reply
        .header("transfer-encoding")
        .iter()
        .any(|value| value.contains("chunked"))
    {
        loop {
            let size = read_until(stream, buffer, b"\r\n").await?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            fill(stream, buffer, size + 2).await?;
            reply.body.extend_from_slice(&buffer[..size]);
            buffer.drain(..size + 2);
        }
        loop {
            let line = read_until(stream, buffer, b"\r\n").await?;
            if line == b"\r\n" {
                return Some(());
            }
            reply.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }
    match reply
        .header("content-length")
        .first()
        .and_then(|value| value.parse::<usize>().ok())
    {
        Some(length) => {
            fill(stream, buffer, length).await?;
            reply.body = buffer.drain(..length).collect();
        }
        None => {
            while let Ok(n) = stream.read_buf(buffer).await {
                if n == 0 {
                    break;
                }
            }
            reply.body = std::mem::take(buffer);
        }
    }
    Some(())
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, length: usize) -> Option<()> {
    while buffer.len() < length {
        buffer.reserve(64 * 1024);
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(())
}
