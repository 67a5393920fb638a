//! Ranks as threads of one process: for tests of what ranks compute together.

use super::link::{Place, Wire, rest};
use anyhow::{Result, anyhow};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

/// One rank's ends of the channels to all ranks.
pub(super) struct Threads {
    rank: usize,
    to: Vec<Sender<Message>>,
    from: Vec<Receiver<Message>>,
    /// Announcements that came among exchanges.
    announced: Option<Vec<u8>>,
}

enum Message {
    Exchange(Vec<u8>),
    Announcement(Vec<u8>),
}

/// Where a rank stands.
pub(super) fn place(rank: usize, size: usize) -> Place {
    Place { rank, local_rank: rank, local_size: size, hosts: vec!["threads".into(); size], library: "threads".into() }
}

/// The wires of so many ranks.
pub(super) fn wires(size: usize) -> Vec<Threads> {
    let mut ranks: Vec<Threads> =
        (0..size).map(|rank| Threads { rank, to: Vec::new(), from: Vec::new(), announced: None }).collect();
    for from in 0..size {
        for to in 0..size {
            let (send, receive) = channel();
            ranks[from].to.push(send);
            // Rank `to` hears of ranks in their order, because `from` is the outer loop.
            ranks[to].from.push(receive);
        }
    }
    ranks
}

impl Threads {
    fn send(&self, to: usize, message: Message) -> Result<()> {
        self.to[to].send(message).map_err(|_| anyhow!("rank {to} has ended"))
    }

    /// The next exchange from a rank; what it announces meanwhile is kept.
    fn receive(&mut self, from: usize) -> Result<Vec<u8>> {
        loop {
            match self.from[from].recv().map_err(|_| anyhow!("rank {from} has ended"))? {
                Message::Exchange(bytes) => return Ok(bytes),
                Message::Announcement(bytes) => self.announced = Some(bytes),
            }
        }
    }
}

impl Wire for Threads {
    fn exchange(&mut self, send: &[f32], cuts: &[usize], received: &mut [f32]) -> Result<()> {
        for to in 0..self.to.len() {
            self.send(to, Message::Exchange(bytemuck::cast_slice(&send[cuts[to]..cuts[to + 1]]).to_vec()))?;
        }
        let len = cuts[self.rank + 1] - cuts[self.rank];
        for from in 0..self.from.len() {
            let bytes = self.receive(from)?;
            bytemuck::cast_slice_mut(&mut received[from * len..(from + 1) * len]).copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn collect(&mut self, own: &[f32], cuts: &[usize], all: &mut [f32]) -> Result<()> {
        let parts = self.gather(bytemuck::cast_slice(own))?;
        for (rank, bytes) in parts.iter().enumerate() {
            bytemuck::cast_slice_mut(&mut all[cuts[rank]..cuts[rank + 1]]).copy_from_slice(bytes);
        }
        Ok(())
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        (0..self.to.len()).try_for_each(|to| self.send(to, Message::Exchange(own.to_vec())))?;
        (0..self.from.len()).map(|from| self.receive(from)).collect()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if self.rank == 0 {
            return (1..self.to.len()).try_for_each(|to| self.send(to, Message::Exchange(bytes.clone())));
        }
        *bytes = self.receive(0)?;
        Ok(())
    }

    fn announce(&mut self, message: &[u8]) -> Result<()> {
        (1..self.to.len()).try_for_each(|to| self.send(to, Message::Announcement(message.to_vec())))
    }

    fn announced(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(message) = self.announced.take() {
            return Ok(Some(message));
        }
        match self.from[0].try_recv() {
            Ok(Message::Announcement(bytes)) => Ok(Some(bytes)),
            Ok(Message::Exchange(_)) => Err(anyhow!("an exchange that nobody announced (a defect of lehr)")),
            Err(TryRecvError::Empty) => {
                rest(Duration::ZERO);
                Ok(None)
            }
            Err(TryRecvError::Disconnected) => Err(anyhow!("rank 0 has ended")),
        }
    }

    fn idle(&mut self) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        Ok(())
    }

    fn abort(&mut self, _code: i32) {}
}
