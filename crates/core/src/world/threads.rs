//! Transport between threads of one process, for tests.

use super::comm::{Topology, Transport, back_off};
use anyhow::{Result, anyhow};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

/// The channels of one rank.
pub(super) struct Threads {
    rank: usize,
    to: Vec<Sender<Message>>,
    from: Vec<Receiver<Message>>,
    /// A command received while waiting for a collective.
    command: Option<Vec<u8>>,
}

enum Message {
    Collective(Vec<u8>),
    Command(Vec<u8>),
}

/// All ranks on one host.
pub(super) fn topology(rank: usize, size: usize) -> Topology {
    Topology { rank, local_rank: rank, local_size: size, hosts: vec!["threads".into(); size], library: "threads".into() }
}

/// The transports of `size` ranks.
pub(super) fn transports(size: usize) -> Vec<Threads> {
    let mut ranks: Vec<Threads> =
        (0..size).map(|rank| Threads { rank, to: Vec::new(), from: Vec::new(), command: None }).collect();
    for from in 0..size {
        for to in 0..size {
            let (send, receive) = channel();
            ranks[from].to.push(send);
            // In rank order, because `from` is the outer loop.
            ranks[to].from.push(receive);
        }
    }
    ranks
}

impl Threads {
    fn send(&self, to: usize, message: Message) -> Result<()> {
        self.to[to].send(message).map_err(|_| anyhow!("rank {to} has ended"))
    }

    /// The next part of a collective from a rank; a command that arrives first is kept.
    fn receive(&mut self, from: usize) -> Result<Vec<u8>> {
        loop {
            match self.from[from].recv().map_err(|_| anyhow!("rank {from} has ended"))? {
                Message::Collective(bytes) => return Ok(bytes),
                Message::Command(bytes) => self.command = Some(bytes),
            }
        }
    }
}

impl Transport for Threads {
    fn all_to_all(&mut self, send: &[f32], pieces: &[Vec<usize>], mut received: &mut [f32]) -> Result<()> {
        for cuts in pieces {
            for to in (0..self.to.len()).filter(|to| *to != self.rank) {
                self.send(to, Message::Collective(bytemuck::cast_slice(&send[cuts[to]..cuts[to + 1]]).to_vec()))?;
            }
            for from in 0..self.from.len() {
                let (part, rest) = std::mem::take(&mut received).split_at_mut(cuts[self.rank + 1] - cuts[self.rank]);
                if from != self.rank {
                    bytemuck::cast_slice_mut(part).copy_from_slice(&self.receive(from)?);
                }
                received = rest;
            }
        }
        Ok(())
    }

    fn all_gather_in_place(&mut self, all: &mut [f32], pieces: &[Vec<usize>]) -> Result<()> {
        for cuts in pieces {
            let own = bytemuck::cast_slice(&all[cuts[self.rank]..cuts[self.rank + 1]]).to_vec();
            for (rank, bytes) in self.all_gather(&own)?.iter().enumerate() {
                bytemuck::cast_slice_mut(&mut all[cuts[rank]..cuts[rank + 1]]).copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn all_gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        (0..self.to.len()).try_for_each(|to| self.send(to, Message::Collective(own.to_vec())))?;
        (0..self.from.len()).map(|from| self.receive(from)).collect()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if self.rank == 0 {
            return (1..self.to.len()).try_for_each(|to| self.send(to, Message::Collective(bytes.clone())));
        }
        *bytes = self.receive(0)?;
        Ok(())
    }

    fn broadcast_command(&mut self, message: &[u8]) -> Result<()> {
        (1..self.to.len()).try_for_each(|to| self.send(to, Message::Command(message.to_vec())))
    }

    fn poll_command(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(message) = self.command.take() {
            return Ok(Some(message));
        }
        match self.from[0].try_recv() {
            Ok(Message::Command(bytes)) => Ok(Some(bytes)),
            Ok(Message::Collective(_)) => Err(anyhow!("a collective without a command (a defect of lehr)")),
            Err(TryRecvError::Empty) => {
                back_off(Duration::ZERO);
                Ok(None)
            }
            Err(TryRecvError::Disconnected) => Err(anyhow!("rank 0 has ended")),
        }
    }

    fn poll(&mut self) -> Result<()> {
        Ok(())
    }

    fn finalize(&mut self, code: i32) -> Result<i32> {
        Ok(code)
    }

    fn abort(&mut self, _code: i32) {}
}
