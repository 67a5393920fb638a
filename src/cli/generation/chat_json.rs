//! `lehr chat --json`: a conversation with a program, in lines of [`ChatRequest`] and [`ChatEvent`].

use super::chat::MAX_LINE;
use crate::cli::output;
use crate::model::conversation::{ChatEvent, ChatRequest, Conversation};
use crate::ops::sample::Sampling;
use crate::vfs::clean;
use anyhow::Result;
use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// Maximum number of queued requests.
const WAITING: usize = 64;

/// A line of standard input.
#[derive(Debug, PartialEq)]
enum RequestLine {
    /// A request.
    Request(ChatRequest),
    /// An invalid line, with the error; the next one may be valid.
    Refused(String),
    /// Unreadable input, with the error.
    Broken(String),
}

/// Handle requests until standard input ends.
///
/// Returns the exit status: 1 after a line that was too long to find its end, or an input that could not be read.
///
/// # Errors
/// A device fault; standard output that was closed.
pub fn run(mut with: Conversation<'_>, ready: &ChatEvent) -> Result<i32> {
    let (send, requests) = sync_channel(WAITING);
    let listen = move || {
        let mut input = std::io::stdin().lock();
        while let Some(line) = read_request(&mut input) {
            let ends = matches!(line, RequestLine::Broken(_));
            if send.send(line).is_err() || ends {
                return;
            }
        }
    };
    std::thread::Builder::new().name("requests".into()).spawn(listen)?;
    output::json_line(ready)?;
    let mut waiting = VecDeque::new();
    while let Some(line) = waiting.pop_front().or_else(|| requests.recv().ok()) {
        match line {
            RequestLine::Request(ChatRequest::Say { text, temperature }) => {
                let temperature = temperature.unwrap_or(with.sampling.temperature);
                let sampling = Sampling { temperature, ..with.sampling };
                match sampling.check("") {
                    Ok(()) => {
                        with.sampling = sampling;
                        send_message(&mut with, &text, &requests, &mut waiting)?;
                    }
                    Err(error) => refuse(&error.to_string())?,
                }
            }
            // The reply has ended already.
            RequestLine::Request(ChatRequest::Stop) => {}
            RequestLine::Request(ChatRequest::Reset { system }) => {
                with.reset(system);
                output::json_line(&ChatEvent::Fresh)?;
            }
            RequestLine::Refused(text) => refuse(&text)?,
            RequestLine::Broken(text) => {
                refuse(&text)?;
                return Ok(1);
            }
        }
    }
    Ok(0)
}

/// The next line; `None` at the end of input.
fn read_request(input: &mut impl BufRead) -> Option<RequestLine> {
    let mut line = Vec::new();
    Some(match input.take(MAX_LINE + 1).read_until(b'\n', &mut line) {
        Ok(0) => return None,
        Ok(read) if read as u64 > MAX_LINE => {
            RequestLine::Broken(format!("standard input: a line of more than {} MiB; the conversation ends", MAX_LINE >> 20))
        }
        Ok(_) => serde_json::from_slice(&line)
            .map_or_else(|error| RequestLine::Refused(format!("standard input: not a request: {error}")), RequestLine::Request),
        Err(error) => RequestLine::Broken(format!("standard input: {error}; the conversation ends")),
    })
}

fn refuse(text: &str) -> Result<()> {
    output::json_line(&ChatEvent::Refused { text: clean(text) })
}

/// Send a message and pass the reply on. Other requests are queued meanwhile; `Stop` ends the reply.
fn send_message(
    with: &mut Conversation<'_>,
    text: &str,
    requests: &Receiver<RequestLine>,
    waiting: &mut VecDeque<RequestLine>,
) -> Result<()> {
    let prompt = match with.add_user_message(text) {
        Ok(prompt) => prompt,
        Err(error) => return refuse(&format!("{error:#}")),
    };
    let end = with.reply(&prompt, &mut |piece| {
        if !piece.is_empty() {
            output::json_line(&ChatEvent::Piece { text: piece.to_owned() })?;
        }
        loop {
            match requests.try_recv() {
                Ok(RequestLine::Request(ChatRequest::Stop)) => return Ok(false),
                Ok(other) if waiting.len() < WAITING || matches!(other, RequestLine::Broken(_)) => waiting.push_back(other),
                // The queue is full: dropped.
                Ok(_) => {}
                // At the end of input the reply is still completed.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(true),
            }
        }
    })?;
    output::json_line(&ChatEvent::Replied { end, left_out: prompt.left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_request_is_refused_and_the_next_is_handled() {
        let mut input: &[u8] = b"{\"command\":\"Stop\"}\nnonsense\n{\"command\":\"Say\",\"text\":\"a\\nb\"}\n";
        assert_eq!(read_request(&mut input), Some(RequestLine::Request(ChatRequest::Stop)));
        assert!(
            matches!(read_request(&mut input), Some(RequestLine::Refused(text)) if text.starts_with("standard input: not a request"))
        );
        assert_eq!(
            read_request(&mut input),
            Some(RequestLine::Request(ChatRequest::Say { text: "a\nb".into(), temperature: None }))
        );
        assert_eq!(read_request(&mut input), None);
    }

    #[test]
    fn an_overlong_request_is_refused_by_name() {
        let line = vec![b'x'; MAX_LINE as usize + 10];
        assert!(
            matches!(read_request(&mut line.as_slice()), Some(RequestLine::Broken(text)) if text.contains("more than 16 MiB"))
        );
    }
}
