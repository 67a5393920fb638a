//! A conversation with a model: `lehr chat --json` as a task. It loads the model; the window's thread neither waits for it nor reads a file.

use crate::backend::{self, Backend, CommandOutput, End, RunningCommand, Wake};
use crate::model::conversation::{ChatEvent, ChatRequest, ReplyEnd};

/// A message of the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The model's, else the user's.
    pub by_model: bool,
    /// Its text, so far.
    pub text: String,
    /// The reason of its end, where it is worth mentioning.
    pub note: String,
    /// It was refused: the model has not seen it.
    pub refused: bool,
}

/// State of a conversation.
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

/// A loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Its folder or file.
    pub model: String,
    /// It has a chat template of its own.
    pub template: bool,
    /// Its context in tokens.
    pub context: usize,
    /// Divides the logits unless a message has a temperature of its own.
    pub temperature: f64,
}

/// See the module. Dropped, the task is ended.
#[derive(Debug)]
pub struct ChatProcess {
    /// The model as it was named: RUN, RUN@STEP, a folder or a file.
    pub model: String,
    /// The messages, oldest first.
    pub turns: Vec<Turn>,
    /// Its state.
    pub state: ChatState,
    /// The model, once it is loaded.
    pub about: Option<About>,
    task: Option<Box<dyn RunningCommand>>,
}

impl ChatProcess {
    /// Start `lehr chat --json` with this model, a system message (none when empty) and replies of up to `tokens` tokens (as suits the model
    /// when 0).
    pub fn start(backend: &dyn Backend, model: &str, (system, tokens): (&str, u64), wake: Wake) -> Self {
        let mut argv = vec!["chat".to_owned(), "--json".into(), format!("--model={model}")];
        if tokens > 0 {
            argv.push(format!("--max-tokens={tokens}"));
        }
        if !system.trim().is_empty() {
            argv.push(format!("--system={system}"));
        }
        let mut chat = Self::made(model, Vec::new(), ChatState::Loading(String::new()));
        match backend.start(&argv, &[], wake) {
            Ok(task) => chat.task = Some(task),
            Err(error) => chat.state = ChatState::Ended(format!("{error:#}")),
        }
        chat
    }

    /// A conversation without a task, in this state.
    pub fn made(model: &str, turns: Vec<Turn>, state: ChatState) -> Self {
        Self { model: model.to_owned(), turns, state, about: None, task: None }
    }

    /// Whether a message can be sent now: one while the model is being loaded, else when it waits.
    pub fn can_say(&self) -> bool {
        match self.state {
            ChatState::Ready => true,
            ChatState::Loading(_) => self.turns.is_empty(),
            _ => false,
        }
    }

    /// Ask for something.
    pub fn send(&mut self, ask: ChatRequest) {
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
        if let Some(task) = &mut self.task {
            // A task that has ended is noticed by `poll`.
            let _ = backend::send(task.as_mut(), &ask);
        }
    }

    /// Take what has come.
    pub fn poll(&mut self) {
        for output in self.task.as_mut().map(|task| task.poll()).unwrap_or_default() {
            match output {
                CommandOutput::Message(line) => {
                    if let ChatState::Loading(newest) = &mut self.state {
                        *newest = line;
                    }
                }
                CommandOutput::Line(line) => match serde_json::from_str(&line) {
                    Ok(event) => self.receive(event),
                    Err(error) => return self.end(format!("an answer of the model's process cannot be read: {error}")),
                },
                CommandOutput::Ended(End::Failed(why)) => return self.end(why),
                CommandOutput::Ended(_) => return self.end("the model's process has ended".into()),
            }
        }
    }

    /// Take an answer.
    pub fn receive(&mut self, event: ChatEvent) {
        match event {
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
                    ReplyEnd::Length => "cut off: as many tokens as a reply may have".into(),
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

    fn end(&mut self, why: String) {
        let Some(mut task) = self.task.take() else { return };
        task.kill();
        self.state = ChatState::Ended(why);
        self.turns.pop_if(|turn| turn.by_model && turn.text.is_empty());
    }
}

impl Drop for ChatProcess {
    fn drop(&mut self) {
        if let Some(task) = &mut self.task {
            task.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(chat: &ChatProcess) -> Vec<(bool, &str, &str)> {
        chat.turns.iter().map(|t| (t.by_model, t.text.as_str(), t.note.as_str())).collect()
    }

    #[test]
    fn pieces_add_up_and_what_is_refused_was_not_said() {
        let mut chat = ChatProcess::made("m", Vec::new(), ChatState::Loading(String::new()));
        let say = |text: &str| ChatRequest::Say { text: text.into(), temperature: None };
        assert!(chat.can_say());
        chat.send(say("hi"));
        assert!(!chat.can_say(), "one thing while the model is being loaded");
        chat.receive(ChatEvent::Ready { model: "m".into(), template: false, context: 64, temperature: 0.8 });
        assert_eq!(chat.state, ChatState::Replying);
        for piece in ["a", " b"] {
            chat.receive(ChatEvent::Piece { text: piece.into() });
        }
        chat.receive(ChatEvent::Replied { end: ReplyEnd::Stopped, left_out: 2 });
        let note = "stopped; the context is full: the 2 oldest messages were left out";
        assert_eq!(said(&chat), [(false, "hi", ""), (true, "a b", note)]);
        chat.send(say("far too much"));
        chat.receive(ChatEvent::Refused { text: "say less".into() });
        assert_eq!(said(&chat)[2..], [(false, "far too much", "say less")]);
        assert!(chat.turns[2].refused && chat.can_say());
        chat.send(ChatRequest::Reset { system: None });
        assert_eq!(said(&chat), []);
    }
}
