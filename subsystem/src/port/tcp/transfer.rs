//! Commands whose data the host still has to send: what was asked for by R2T, and what has come.
//!
//! Writes and comparisons go to the medium as their data arrives, in whole blocks, so that no command needs memory for
//! all of its data. Commands with a little data (Dataset Management, Set Features) are kept until it is complete.
//! Everything is bounded: commands by the queue's size, R2Ts by what the host takes for each command and by [`MAX_GRANTED`]
//! for all of them; a command that gets none waits for its turn.

use std::collections::VecDeque;

use doorbell_spec::command::Sqe;
use doorbell_spec::fabrics::header::Violation;
use doorbell_spec::fabrics::pdu::offset;
use doorbell_spec::status::Status;

/// The most R2Ts for one command, whatever the host takes.
const MAX_GRANTS: u32 = 16;
/// The most R2Ts outstanding on a connection: each may keep a block, or the data of a whole command.
pub(super) const MAX_GRANTED: usize = 64;
/// The most data of a command that is kept until it is complete.
pub(super) const MAX_WHOLE: u64 = 4096;

/// A command that waits for data.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sqe: Sqe,
    /// Bytes of all its data.
    len: u32,
    /// Bytes of a block, where data goes to the medium as it comes.
    block: Option<u32>,
    /// Up to where R2Ts have asked.
    asked: u32,
    came: u32,
    grants: u32,
    /// What goes wrong first.
    pub(super) status: Status,
    /// All data, where it is kept.
    pub(super) whole: Vec<u8>,
}

/// An R2T that was sent.
#[derive(Debug)]
struct Grant {
    command: usize,
    next: u32,
    end: u32,
    /// The beginning of a block whose end has not come.
    carry: Vec<u8>,
}

/// An R2T to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) cid: u16,
    pub(super) ttag: u16,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// Where an H2CData belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    command: usize,
    ttag: u16,
    offset: u32,
    len: u32,
}

/// The fields of an H2CData.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) cccid: u16,
    pub(super) ttag: u16,
    pub(super) datao: u32,
    pub(super) datal: u32,
    pub(super) last: bool,
}

/// The commands of one queue that wait for data.
#[derive(Debug)]
pub(super) struct Transfers {
    commands: Vec<Option<Pending>>,
    grants: Vec<Option<Grant>>,
    granted: usize,
    /// Commands that are to get more R2Ts, in the order in which they came.
    queue: VecDeque<usize>,
    waiting: usize,
    most: usize,
    /// R2Ts for one command at a time.
    per_command: u32,
    /// Bytes that one R2T asks for, where there are several.
    portion: u32,
}

impl Transfers {
    /// For a queue of `most` commands; the host takes `maxr2t_z + 1` R2Ts for each.
    pub(super) fn new(most: usize, maxr2t_z: u32, portion: u32) -> Self {
        let per_command = maxr2t_z.saturating_add(1).min(MAX_GRANTS);
        // One R2T at a time costs a round trip each: it asks for everything.
        let portion = if per_command == 1 { u32::MAX } else { portion };
        Self {
            commands: Vec::new(),
            grants: Vec::new(),
            granted: 0,
            queue: VecDeque::new(),
            waiting: 0,
            most,
            per_command,
            portion,
        }
    }

    /// Whether a command with this identifier waits.
    pub(super) fn holds(&self, cid: u16) -> bool {
        self.waiting != 0 && self.commands.iter().flatten().any(|held| held.sqe.cid() == cid)
    }

    /// Ends a command of which no data is on its way. One of which some is stays until that has come, and is not carried
    /// out any further: hosts do not expect a completion while they send.
    pub(super) fn abort(&mut self, cid: u16) -> Option<Sqe> {
        let of = |slot: &Option<Pending>| slot.as_ref().is_some_and(|held| held.sqe.cid() == cid);
        let at = self.commands.iter().position(of)?;
        let slot = self.commands.get_mut(at)?;
        let pending = slot.as_mut()?;
        if pending.grants != 0 {
            if pending.status.is_success() {
                pending.status = Status::ABORTED_BY_REQUEST;
            }
            return None;
        }
        let sqe = pending.sqe;
        *slot = None;
        self.waiting -= 1;
        self.queue.retain(|&waiting| waiting != at);
        Some(sqe)
    }

    /// Takes a command that is to get `len` bytes, in blocks of `block` bytes where they go to the medium as they come.
    ///
    /// # Errors
    /// [`Violation`] where the host has more commands outstanding than its queue has entries.
    pub(super) fn begin(
        &mut self,
        sqe: Sqe,
        len: u32,
        block: Option<u32>,
        send: &mut impl FnMut(Request),
    ) -> Result<(), Violation> {
        if self.waiting >= self.most {
            return Err(Violation::SEQUENCE);
        }
        let (whole, status) = (Vec::new(), Status::SUCCESS);
        let pending = Pending { sqe, len, block, asked: 0, came: 0, grants: 0, status, whole };
        let command = place(&mut self.commands, pending);
        self.waiting += 1;
        self.queue.push_back(command);
        self.ask(send);
        Ok(())
    }

    /// Sends the R2Ts that there can be now.
    fn ask(&mut self, send: &mut impl FnMut(Request)) {
        while self.granted < MAX_GRANTED
            && let Some(&command) = self.queue.front()
        {
            let pending = self.commands.get_mut(command).and_then(Option::as_mut);
            let wants = pending.filter(|pending| {
                pending.grants < self.per_command
                    && pending.asked < pending.len
                    && pending.status.is_success()
            });
            let Some(pending) = wants else {
                // It is back once one of its R2Ts is done, if it wants more.
                self.queue.pop_front();
                continue;
            };
            if pending.block.is_none() && pending.whole.is_empty() {
                pending.whole = vec![0; pending.len as usize];
            }
            let offset = pending.asked;
            let len = (pending.len - offset).min(self.portion);
            pending.asked += len;
            pending.grants += 1;
            let cid = pending.sqe.cid();
            let grant = Grant { command, next: offset, end: offset + len, carry: Vec::new() };
            let ttag = place(&mut self.grants, grant) as u16;
            self.granted += 1;
            send(Request { cid, ttag, offset, len });
        }
    }

    /// Checks an H2CData against the R2T that it answers.
    ///
    /// # Errors
    /// The [`Violation`] that the host is told of.
    pub(super) fn place(&self, header: &Header) -> Result<Place, Violation> {
        let Header { cccid, ttag, datao, datal, last } = *header;
        let grant = self.grants.get(usize::from(ttag)).and_then(Option::as_ref);
        let grant = grant.ok_or(Violation::field(offset::TTAG))?;
        let command = self.commands.get(grant.command).and_then(Option::as_ref);
        if command.is_none_or(|command| command.sqe.cid() != cccid) {
            return Err(Violation::field(offset::CCCID));
        }
        let end = u64::from(datao) + u64::from(datal);
        if datao != grant.next || end > u64::from(grant.end) {
            return Err(Violation::RANGE);
        }
        if last != (end == u64::from(grant.end)) {
            return Err(Violation::field(offset::FLAGS));
        }
        Ok(Place { command: grant.command, ttag, offset: datao, len: datal })
    }

    /// Takes the data of an H2CData: passes whole blocks to `write` with their first byte's offset, keeps the rest.
    /// `intact` says whether the data's digest was right.
    pub(super) fn take(
        &mut self,
        place: Place,
        data: &mut [u8],
        intact: bool,
        mut write: impl FnMut(&Sqe, u32, &mut [u8]) -> Status,
    ) {
        let Some(Some(pending)) = self.commands.get_mut(place.command) else { return };
        let Some(Some(grant)) = self.grants.get_mut(usize::from(place.ttag)) else { return };
        grant.next += place.len;
        pending.came += place.len;
        if !intact && pending.status.is_success() {
            pending.status = Status::TRANSIENT_TRANSPORT_ERROR;
        }
        if !pending.status.is_success() {
            return;
        }
        let Some(block) = pending.block else {
            let at = place.offset as usize;
            if let Some(part) = pending.whole.get_mut(at..at + data.len()) {
                part.copy_from_slice(data);
            }
            return;
        };
        let block = block as usize;
        let (mut at, mut data) = (place.offset, data);
        if !grant.carry.is_empty() {
            let (more, rest) = data.split_at_mut((block - grant.carry.len()).min(data.len()));
            let begun = grant.carry.len() as u32;
            grant.carry.extend_from_slice(more);
            if grant.carry.len() < block {
                return;
            }
            pending.status = write(&pending.sqe, at - begun, &mut grant.carry);
            grant.carry.clear();
            at += more.len() as u32;
            data = rest;
        }
        let (blocks, rest) = data.split_at_mut(data.len() - data.len() % block);
        if !blocks.is_empty() && pending.status.is_success() {
            pending.status = write(&pending.sqe, at, blocks);
        }
        grant.carry.extend_from_slice(rest);
    }

    /// Goes on after [`Transfers::take`]: asks for more, or returns the command that has all of its data, or that has
    /// failed and has nothing outstanding.
    pub(super) fn advance(&mut self, at: Place, send: &mut impl FnMut(Request)) -> Option<Pending> {
        let done = |grant: &mut Grant| grant.next == grant.end;
        let slot = self.grants.get_mut(usize::from(at.ttag))?;
        if slot.as_mut().is_some_and(done) {
            *slot = None;
            self.granted -= 1;
            let pending = self.commands.get_mut(at.command)?.as_mut()?;
            pending.grants -= 1;
            if pending.asked < pending.len {
                self.queue.push_back(at.command);
            }
            self.ask(send);
        }
        let slot = self.commands.get_mut(at.command)?;
        let pending = slot.as_ref()?;
        let over = pending.came == pending.len || !pending.status.is_success();
        if !over || pending.grants != 0 {
            return None;
        }
        self.waiting -= 1;
        slot.take()
    }
}

/// Puts a value into the first free slot and says which that is.
fn place<T>(slots: &mut Vec<Option<T>>, value: T) -> usize {
    match slots.iter().position(Option::is_none) {
        Some(at) => {
            if let Some(slot) = slots.get_mut(at) {
                *slot = Some(value);
            }
            at
        }
        None => {
            slots.push(Some(value));
            slots.len() - 1
        }
    }
}

#[cfg(test)]
mod tests;
