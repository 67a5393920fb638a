//! `lehr chat --json`: a conversation with a program, in lines of [`ChatRequest`] and [`ChatEvent`].

use super::chat::MAX_LINE;
use super::output;
use crate::model::conversation::{ChatEvent, ChatRequest, Conversation};
use crate::ops::sample::Sampling;
use crate::vfs::clean;
use anyhow::Result;
use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

/// Requests that wait.
const WAITING: usize = 64;

/// A line of standard input, or why it is none.
type RequestLine = Result<ChatRequest, String>;

/// Speak until standard input ends.
///
/// # Errors
/// A device fault; standard output that was closed.
pub fn run(mut with: Conversation<'_>, ready: &ChatEvent) -> Result<i32> {
    let (send, asks) = sync_channel(WAITING);
    let listen = move || {
        let mut input = std::io::stdin().lock();
        while let Some(heard) = hear(&mut input) {
            if send.send(heard).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("requests".into()).spawn(listen)?;
    output::json_line(ready)?;
    let mut waiting = VecDeque::new();
    while let Some(heard) = waiting.pop_front().or_else(|| asks.recv().ok()) {
        match heard {
            Ok(ChatRequest::Say { text, temperature }) => {
                let temperature = temperature.unwrap_or(with.sampling.temperature);
                let sampling = Sampling { temperature, ..with.sampling };
                match sampling.check("") {
                    Ok(()) => {
                        with.sampling = sampling;
                        say(&mut with, &text, &asks, &mut waiting)?;
                    }
                    Err(error) => refuse(&error.to_string())?,
                }
            }
            // The reply has ended already.
            Ok(ChatRequest::Stop) => {}
            Ok(ChatRequest::Reset { system }) => {
                with.reset(system);
                output::json_line(&ChatEvent::Fresh)?;
            }
            Err(text) => refuse(&text)?,
        }
    }
    Ok(0)
}

/// The next line; None at the end of input, and after a line that is too long to find its end.
fn hear(input: &mut impl BufRead) -> Option<RequestLine> {
    let mut line = Vec::new();
    let read = input.take(MAX_LINE + 1).read_until(b'\n', &mut line).ok()?;
    if read == 0 || read as u64 > MAX_LINE {
        return None;
    }
    Some(serde_json::from_slice(&line).map_err(|error| format!("standard input: no request: {error}")))
}

fn refuse(text: &str) -> Result<()> {
    output::json_line(&ChatEvent::Refused { text: clean(text) })
}

/// Say something and pass the reply on. Requests that come meanwhile wait; `Stop` ends the reply.
fn say(with: &mut Conversation<'_>, text: &str, asks: &Receiver<RequestLine>, waiting: &mut VecDeque<RequestLine>) -> Result<()> {
    let prompt = match with.say(text) {
        Ok(prompt) => prompt,
        Err(error) => return refuse(&format!("{error:#}")),
    };
    let end = with.reply(&prompt, &mut |piece| {
        if !piece.is_empty() {
            output::json_line(&ChatEvent::Piece { text: piece.to_owned() })?;
        }
        loop {
            match asks.try_recv() {
                Ok(Ok(ChatRequest::Stop)) => return Ok(false),
                Ok(other) if waiting.len() < WAITING => waiting.push_back(other),
                // More than anybody means: dropped.
                Ok(_) => {}
                // Where the input has ended, the reply is still wanted.
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
    fn a_line_that_is_no_request_is_refused_and_the_next_is_heard() {
        let mut input: &[u8] = b"{\"ask\":\"Stop\"}\nnonsense\n{\"ask\":\"Say\",\"text\":\"a\\nb\"}\n";
        assert_eq!(hear(&mut input), Some(Ok(ChatRequest::Stop)));
        assert!(hear(&mut input).unwrap().unwrap_err().starts_with("standard input: no request"));
        assert_eq!(hear(&mut input), Some(Ok(ChatRequest::Say { text: "a\nb".into(), temperature: None })));
        assert_eq!(hear(&mut input), None);
    }
}
