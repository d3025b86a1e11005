//! Messages that a worker takes along, to start one after the other without coming back for each.
//!
//! Whole chunks leave their partitions, so nothing is copied natively, and whoever needs the messages puts the chunks
//! back where they were: the worker when it leaves, and any worker that finds nothing else to do. The worker has
//! copies of the next few; it starts each of them by a call, which tells it if the messages are gone.
//!
//! Invariants: a chunk is in a partition or with one worker. It changes under both of their locks. What the worker has
//! copies of are the first messages of what it has here.

use std::collections::VecDeque;
use std::ops::Range;

use super::waiting::{Chunk, Emptied};
use crate::Arena;

pub(super) struct Load<A, P> {
    // By partition: the chunk that was its first one.
    chunks: Vec<Option<Box<Chunk<A, P>>>>,
    held: usize,
    bytes: u64,
    // From which partitions those come that the worker has copies of: in order, so many each.
    copied: VecDeque<(usize, usize)>,
    // How many are copied the next time.
    most: usize,
}

impl<A, P> Default for Load<A, P> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            held: 0,
            bytes: 0,
            copied: VecDeque::new(),
            most: Self::FIRST,
        }
    }
}

impl<A, P> Load<A, P> {
    /// A worker gets twice as many copies each time, as long as nobody takes what it has: copies that are not
    /// needed are work for nothing.
    const FIRST: usize = 2;
    const MOST: usize = 32;
    /// What is copied at once weighs about as much at the most.
    const BYTES: u64 = 16 * 1024;

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

impl<A: Arena, P: Copy> Load<A, P> {
    pub(super) fn has(&self, partition: usize) -> bool {
        self.chunks.get(partition).is_some_and(Option::is_some)
    }

    /// When the oldest of them came.
    pub(super) fn oldest(&self) -> Option<i64> {
        let chunks = self.chunks.iter().flatten();
        chunks
            .filter_map(|chunk| chunk.messages().next())
            .map(|entry| entry.at)
            .min()
    }

    pub(super) fn put(&mut self, partition: usize, chunk: Box<Chunk<A, P>>) {
        if self.chunks.len() <= partition {
            self.chunks.resize_with(partition + 1, || None);
        }
        self.held += chunk.held();
        self.bytes += chunk.bytes();
        self.chunks[partition] = Some(chunk);
    }

    /// Takes a chunk out, to put it back. All copies are void.
    pub(super) fn remove(&mut self, partition: usize) -> Option<Box<Chunk<A, P>>> {
        let chunk = self.chunks.get_mut(partition)?.take()?;
        self.held -= chunk.held();
        self.bytes -= chunk.bytes();
        self.copied.clear();
        self.most = Self::FIRST;
        Some(chunk)
    }

    /// Copies of the next few: how many. A message waits for those of other partitions that `is_older_elsewhere` tells of.
    pub(super) fn copy(
        &mut self,
        is_older_elsewhere: impl Fn(usize, i64) -> bool,
        mut copy: impl FnMut(&A, Range<usize>),
    ) -> usize {
        let Self { chunks, copied, .. } = self;
        // Those that it had copies of and has not started are copied again.
        copied.clear();
        let chunks = chunks.iter().enumerate();
        let mut sources: Vec<_> = chunks
            .filter_map(|(index, chunk)| {
                let chunk = chunk.as_deref()?;
                Some((index, chunk.arena(), chunk.messages().peekable()))
            })
            .collect();
        let (mut count, mut bytes) = (0, 0);
        let mut run: Option<(usize, Range<usize>)> = None;
        while count < self.most && bytes < Self::BYTES {
            let fronts = sources.iter_mut().enumerate();
            let fronts = fronts.filter_map(|(source, (index, _, messages))| {
                messages.peek().map(|entry| (entry.at, *index, source))
            });
            let Some((at, index, source)) = fronts.min() else {
                break;
            };
            if is_older_elsewhere(index, at) {
                break;
            }
            let Some(entry) = sources[source].2.next() else {
                break;
            };
            let place = entry.message as usize;
            match &mut run {
                Some((same, range)) if *same == source && range.end == place => range.end += 1,
                _ => {
                    if let Some((source, range)) = run.replace((source, place..place + 1)) {
                        copy(sources[source].1, range);
                    }
                }
            }
            match copied.back_mut() {
                Some((same, count)) if *same == index => *count += 1,
                _ => copied.push_back((index, 1)),
            }
            count += 1;
            bytes += u64::from(entry.weight);
        }
        if let Some((source, range)) = run {
            copy(sources[source].1, range);
        }
        if count == self.most {
            self.most = Self::MOST.min(2 * count);
        }
        count
    }

    /// The worker starts the next one of those that it has copies of: its id, and the chunk if nothing is left in it, with
    /// its partition. `None`: there is none, or somebody has taken it back.
    pub(super) fn start(&mut self) -> Option<(u64, Emptied<A, P>)> {
        let (index, left) = self.copied.front_mut()?;
        let index = *index;
        *left -= 1;
        if *left == 0 {
            self.copied.pop_front();
        }
        let chunk = self.chunks.get_mut(index)?;
        let entry = chunk.as_mut()?.pop()?;
        self.held -= 1;
        self.bytes -= u64::from(entry.weight);
        let gone = chunk.take_if(|chunk| chunk.held() == 0);
        Some((entry.id, gone.map(|gone| (index, gone))))
    }
}
