//! A conversation with a model: `lehr chat --json` as a child process. It loads the model; the window's thread neither waits for it nor
//! reads a file.

use super::child::{Lines, in_words, keep_lines, last_error};
use crate::model::conversation::{ChatEvent, ChatRequest, ReplyEnd};
use anyhow::{Context as _, Result};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

/// Something that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Said by the model, else by the user.
    pub by_model: bool,
    /// What was said, so far.
    pub text: String,
    /// How it ended, where that is worth a word.
    pub note: String,
    /// It was refused: the model has not seen it.
    pub refused: bool,
}

/// How a conversation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatState {
    /// The model is being loaded; the newest line of progress.
    Loading(String),
    /// The model waits.
    Ready,
    /// A reply is being generated.
    Replying,
    /// The process has ended: why, in one line.
    Ended(String),
}

/// What is known of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Its folder or file.
    pub model: String,
    /// It has a chat template of its own.
    pub template: bool,
    /// Tokens that it sees at most.
    pub context: usize,
    /// Divides the logits unless something else is asked for.
    pub temperature: f64,
}

/// See the module. Dropped, the process ends.
#[derive(Debug)]
pub struct ChatProcess {
    /// The model as it was named: RUN, RUN@STEP, a folder or a file.
    pub model: String,
    /// What was said, oldest first.
    pub turns: Vec<Turn>,
    /// How it stands.
    pub state: ChatState,
    /// The model, once it is loaded.
    pub about: Option<About>,
    link: Option<Link>,
}

/// The process, and both ways.
#[derive(Debug)]
struct Link {
    child: Child,
    asks: Sender<ChatRequest>,
    said: Receiver<ChatEvent>,
    lines: Lines,
}

impl ChatProcess {
    /// Start `lehr chat --json` with this model, a system message (none when empty) and replies of up to `tokens` tokens (as many as suit the
    /// model when 0).
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        program: &Path,
        model: &str,
        (system, tokens): (&str, u64),
        wake: impl Fn() + Send + Clone + 'static,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["chat", "--json", &format!("--model={model}")]);
        if tokens > 0 {
            command.arg(format!("--max-tokens={tokens}"));
        }
        if !system.trim().is_empty() {
            command.arg(format!("--system={system}"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}: cannot be started", program.display()))?;
        let lines = keep_lines(child.stderr.take(), wake.clone())?;
        let (send, said) = channel();
        let stdout = child.stdout.take();
        let listen = move || {
            // What cannot be read as an answer ends the listener, and with it the conversation.
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                let Ok(answer) = serde_json::from_str(&line) else { break };
                if send.send(answer).is_err() {
                    break;
                }
                wake();
            }
            drop(send);
            wake();
        };
        std::thread::Builder::new().name("answers".into()).spawn(listen)?;
        let (asks, wanted) = channel::<ChatRequest>();
        let stdin = child.stdin.take();
        // A process that loads its model reads nothing: a full pipe would hold up a frame.
        let speak = move || {
            let Some(mut stdin) = stdin else { return };
            for ask in wanted {
                let line = serde_json::to_string(&ask).map(|line| line + "\n").unwrap_or_default();
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("requests".into()).spawn(speak)?;
        let state = ChatState::Loading(String::new());
        let link = Some(Link { child, asks, said, lines });
        Ok(Self { model: model.to_owned(), turns: Vec::new(), state, about: None, link })
    }

    /// A conversation without a process, for tests and for what could not be started.
    pub fn made(model: &str, turns: Vec<Turn>, state: ChatState) -> Self {
        Self { model: model.to_owned(), turns, state, about: None, link: None }
    }

    /// Whether something can be said now: one thing while the model is being loaded, else when it waits.
    pub fn can_say(&self) -> bool {
        match self.state {
            ChatState::Ready => true,
            ChatState::Loading(_) => self.turns.is_empty(),
            _ => false,
        }
    }

    /// Ask for something.
    pub fn ask(&mut self, ask: ChatRequest) {
        match &ask {
            ChatRequest::Say { text, .. } => {
                self.turns.push(Turn { text: text.clone(), ..Turn::default() });
                self.turns.push(Turn { by_model: true, ..Turn::default() });
                if self.state == ChatState::Ready {
                    self.state = ChatState::Replying;
                }
            }
            ChatRequest::Reset { .. } => self.turns.clear(),
            ChatRequest::Stop => {}
        }
        if let Some(link) = &self.link {
            // A process that is gone is noticed by `poll`.
            let _ = link.asks.send(ask);
        }
    }

    /// Take what has come.
    pub fn poll(&mut self) {
        while let Some(link) = &mut self.link {
            match link.said.try_recv() {
                Ok(said) => self.hear(said),
                Err(TryRecvError::Empty) => {
                    if let ChatState::Loading(line) = &mut self.state {
                        *line = link.lines.lock().ok().and_then(|lines| lines.back().cloned()).unwrap_or_default();
                    }
                    return;
                }
                Err(TryRecvError::Disconnected) => self.end(),
            }
        }
    }

    /// Take an answer.
    pub fn hear(&mut self, said: ChatEvent) {
        match said {
            ChatEvent::Ready { model, template, context, temperature } => {
                self.about = Some(About { model, template, context, temperature });
                self.state = if self.turns.is_empty() { ChatState::Ready } else { ChatState::Replying };
            }
            ChatEvent::Piece { text } => {
                if let Some(turn) = self.turns.last_mut() {
                    turn.text.push_str(&text);
                }
            }
            ChatEvent::Replied { end, left_out } => {
                self.state = ChatState::Ready;
                let Some(turn) = self.turns.last_mut() else { return };
                turn.note = match end {
                    ReplyEnd::Turn => String::new(),
                    ReplyEnd::Stopped => "stopped".into(),
                    ReplyEnd::Length => "as many tokens as a reply may have".into(),
                };
                if left_out > 0 {
                    let gap = if turn.note.is_empty() { "" } else { "; " };
                    turn.note += &format!("{gap}the context is full: the {left_out} oldest messages were left out");
                }
            }
            ChatEvent::Refused { text } => {
                self.state = ChatState::Ready;
                self.turns.pop_if(|turn| turn.by_model && turn.text.is_empty());
                if let Some(turn) = self.turns.last_mut() {
                    (turn.note, turn.refused) = (text, true);
                }
            }
            ChatEvent::Fresh => {}
        }
    }

    /// The process has closed its output: why.
    fn end(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        let _ = link.child.kill();
        let why = match link.child.wait() {
            Ok(status) => in_words(status, &last_error(&link.lines)),
            Err(error) => error.to_string(),
        };
        self.state = ChatState::Ended(why);
        self.turns.pop_if(|turn| turn.by_model && turn.text.is_empty());
    }
}

impl Drop for ChatProcess {
    fn drop(&mut self) {
        if let Some(mut link) = self.link.take() {
            let _ = link.child.kill();
            let _ = link.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(talk: &ChatProcess) -> Vec<(bool, &str, &str)> {
        talk.turns.iter().map(|t| (t.by_model, t.text.as_str(), t.note.as_str())).collect()
    }

    #[test]
    fn pieces_add_up_and_what_is_refused_was_not_said() {
        let mut talk = ChatProcess::made("m", Vec::new(), ChatState::Loading(String::new()));
        let say = |text: &str| ChatRequest::Say { text: text.into(), temperature: None };
        assert!(talk.can_say());
        talk.ask(say("hi"));
        assert!(!talk.can_say(), "one thing while the model is being loaded");
        talk.hear(ChatEvent::Ready { model: "m".into(), template: false, context: 64, temperature: 0.8 });
        assert_eq!(talk.state, ChatState::Replying);
        for piece in ["a", " b"] {
            talk.hear(ChatEvent::Piece { text: piece.into() });
        }
        talk.hear(ChatEvent::Replied { end: ReplyEnd::Stopped, left_out: 2 });
        let note = "stopped; the context is full: the 2 oldest messages were left out";
        assert_eq!(said(&talk), [(false, "hi", ""), (true, "a b", note)]);
        talk.ask(say("far too much"));
        talk.hear(ChatEvent::Refused { text: "say less".into() });
        assert_eq!(said(&talk)[2..], [(false, "far too much", "say less")]);
        assert!(talk.turns[2].refused && talk.can_say());
        talk.ask(ChatRequest::Reset { system: None });
        assert_eq!(said(&talk), []);
    }
}
