//! Definitions, invariants, lock order. Documentation only.
//!
//! # Definitions
//!
//! | word | meaning |
//! |---|---|
//! | *arena* | a place that many entries are copied into; it only grows and is freed as a whole |
//! | *segment* | an arena, with the weight in bytes of each entry in it |
//! | *generation* | segments that are swapped out and drained together: a queue or a map |
//! | *live* | the generation that writes go to |
//! | *draining* | the generation whose entries are handed to a processor |
//! | *partition* | one live generation, one draining, and the ledger |
//! | *ledger* | what is known of the drain without looking at its entries: how many, whose, what became of the others |
//! | *drain* | the draining generation, and who works on it: its *owner* |
//! | *batch* | the first few entries of the draining generation, given to the owner; *in flight* until it is settled |
//! | *settled* | what became of a batch: *processed*, *discarded* for one of the [reasons](crate::Reason), or to be tried again |
//! | *piece* | a batch that is to be tried again, or a part of one: at the beginning of the draining generation |
//! | *pending* | those entries of a batch that have not been processed, while others of it have been |
//! | *place* | the number of an entry of a partition, in the order of entries; a batch is known by its first and last |
//! | *size* | entries, and their weight in bytes |
//! | *limit* | the size that a buffer may have; *used*: what of it is taken |
//! | *credit* | room that was taken for writes on their way |
//! | *evicted* | dropped from the live generation, oldest first, in favour of a newer entry |
//! | *kept* | what was discarded, until somebody has been told of each entry |
//! | *trigger* | what starts a cycle; of a live generation: the size at which a write does |
//! | *runner* | who drains, cycle after cycle; it *waits* between two of them |
//! | *attendant* | who starts runners, and is told when there is none |
//! | *note* | the trigger of a cycle that could not begin yet |
//! | *awaiting* | who is told when all places of a stretch have been left, and whether one of them was lost |
//! | *waiter* | a writer that waits for room |
//! | *gate* | counts the writes that are on their way over several partitions |
//! | *retired* | segments that nothing is left in, and what else takes long to be freed, on their way to that |
//! | *version* of a cell | stands for one value of a [`Cell`](crate::Cell), ever |
//! | *turn* | one of many has it, the others wait for it in line |
//! | *dead* | a term of a map that was overwritten, removed or drained: it takes memory until its segment goes |
//! | *snapshot* | the entries of a live map at one moment, read while writes go on; *kept*: what was overwritten before it was read |
//! | *latent* | a version of a live entry: recorded, and handed over from the next swap on, unless it is withdrawn |
//! | *class* | the terms of a map whose weights lie between a power of two and the next; they share segments |
//!
//! # The path of an entry
//!
//! ```text
//!               live lock                    drain lock
//!          +-------------------+        +-------------------+        +-----------------+
//!  write   |  live generation  |  swap  |     draining      |  next  | batch in flight |
//! -------> |   [seg][seg][se   | -----> |  [seg][seg][seg]  | -----> |    (a copy)     |
//!  (copy)  +-------------------+        +-------------------+        +-----------------+
//!                    |                            |                    |             |
//!                   map:                  a segment's last         next again      settle
//!            superseded, deleted            entry leaves               |             |
//!                                                 |                processed     discarded
//!                                              retired
//!                                                 |
//!                                      freed, with no lock held
//! ```
//!
//! * **Write.** The entry is copied to the end of the live generation under the `live` lock. What takes
//!   long to copy is copied before, into segments of its own, and only those are handed over. While there is
//!   a limit, room is taken first: by the write itself under that lock ([`Room`](crate::Room)), or for a
//!   write over several partitions before, as a credit.
//! * **Evict.** Where the oldest entries make room, they leave the live generation under the same lock,
//!   and only if that makes enough. So a write in the place of others never drops any in vain.
//! * **Swap.** With all locks held, the live generation becomes the draining one, if that is empty, or its
//!   first entries do. At the most one segment is copied, and no writer can be left with the old generation:
//!   it looks for it under the lock.
//! * **End of a call.** The processor has returned, or has taken too long: whichever is noted first: `partition/call.rs`
//! * **Begin.** Whoever wants a cycle swaps and makes the runner that waits the owner, or leaves a note: `partition/runner.rs`
//!   says how, and why no wake-up is lost.
//! * **Next.** The owner asks for the next batch, which says that it is through with the former one.
//!   Entries do not leave when they are handed out, only when their batch is settled; so whatever
//!   happens to the owner, what it had is known.
//! * **Settle.** Takes the drain away from an owner that is gone. The batch it had stays at the beginning of
//!   the draining generation, to be tried again, as a whole or in halves; or it is discarded. All behind it is
//!   left for the next owner. What was discarded stays noted until it has been reported.
//! * **Expire.** What is too old is discarded instead of being handed out: entries of a queue to the
//!   precision of a segment, a map as a whole, a batch that was tried before when all of it is too old.
//! * **Retire.** A segment goes when its last entry does. Retired segments are gathered and handed over
//!   64 at a time, and all of them once the drain is through; so are the index and the slots of a map.
//!
//! # Invariants
//!
//! 1. *The account.* In every reading of [`Stats`](crate::Stats), for one partition,
//!
//!    ```text
//!    accepted = processed + superseded + deleted + discarded + queued + in flight
//!    ```
//!
//!    where the entries held, in both generations, are those queued and those in flight.
//! 2. Entries of a queue leave in the order in which their writes took the `live` lock.
//! 3. An entry is in one batch at the most. Batches follow each other without a gap: a batch begins
//!    behind all that was settled before it.
//! 4. There is a batch in flight only if there is an owner, and the draining generation begins with it.
//! 5. A queue has no segment without entries. What a drain has retired waits in the partition only while
//!    there is more to drain.
//! 6. A write that unwinds leaves the partition usable: entries that it had stored by then are in, and
//!    count; room that it has not used is given back.
//! 7. *The limit.* While there is one, `used` is what all partitions hold and all credits that were taken
//!    since it came; the entries of a batch that have been processed count no more, their bytes do until all
//!    of it has left. It is never more than the limit, but for what was held when the limit came or was
//!    lowered, and for writes whose room had been taken before. What is held beyond the limit only ever
//!    becomes less.
//! 8. Nobody waits for room while there is some for the first one who waits, and nobody serves or is about to.
//!    Nobody takes room meanwhile but those who are served, and those who take that of what they evict.
//! 9. Places only ever grow, in a partition that takes the place of another one too. So two batches with
//!    the same first and last place are one that was tried twice.
//! 10. Who awaits a stretch is told once: under the lock under which the last of its places is left.
//!
//! # Why the account holds
//!
//! Each figure is kept in one place, under one lock:
//!
//! | figure | kept | changes with |
//! |---|---|---|
//! | accepted, superseded, deleted | by the live generation, and a sum of the former ones (`live`) | a write |
//! | live entries | the length of the live generation (`live`) | a write, an eviction, a swap |
//! | discarded because of overflow | `live`, until it is to be reported; then `ledger` | a write |
//! | draining entries, their bytes | `ledger` | a swap, a batch that is settled |
//! | in flight | `ledger`: a batch is part of the draining entries | `next`, `settle` |
//! | processed, discarded | `ledger` | a batch that is settled |
//!
//! * A write changes both sides by as much: a generation counts what is done to it as it is done.
//!   That is why a write that unwinds leaves nothing uncounted.
//! * A swap moves live entries to draining ones, and what the generation has counted to the sum.
//! * A settled batch leaves the draining entries and enters `processed` or `discarded`. Those that are
//!   processed before the rest of their batch do so by themselves; they stay in the draining generation,
//!   so that it and the batch keep their places, and only `pending` tells them apart.
//! * An evicted entry leaves the live ones and enters `discarded`. One that is dropped instead of being written
//!   is accepted and discarded.
//! * `next` and `settle` move entries between queued and in flight, whose sum is what is held.
//! * What another partition takes over ([`take_all`](crate::Partition::take_all)) it has accepted from
//!   then on, and it inherits the counters of the rest, a batch that was in flight among it: discarded.
//!
//! Each of these is done within one hold of the lock, or of both, that keeps the figures it changes. A
//! reading takes both, so it falls before or after, never in between. The draining generation itself
//! may be a step behind the ledger meanwhile. Only who holds `drain` looks at it, and when `drain` is
//! released the two agree.
//!
//! The high-water mark alone reads a number without its lock. That number is never less than what is
//! draining, so the mark is never less than what was held; it may be more by what was settled a moment
//! ago.
//!
//! # Room
//!
//! A write on its own takes room and writes under one hold of `live`; whatever becomes of it, what it has
//! changed is compared with what it has taken before the lock is released. A write over several partitions
//! takes room for all of it first. Each partition then counts what was written against that credit, and what
//! is left of it is given back in the end. Entries give their room back under the lock that they leave under.
//!
//! A limit comes, changes and goes under the `ledger` and `live` locks of all partitions, so everything that is
//! held counts from then on or not at all. Without a limit nothing is counted, so a credit that was taken
//! before one came is void: it covers nothing, and gives nothing back.
//!
//! Who gives room back learns under the capacity's lock whether somebody waits, and has those served when it
//! holds no other lock ([`After::room`](crate::After)). A writer joins those who wait under the waiters' lock,
//! and finds that there is no room under it: so either it sees the room, or who gives it back sees the
//! writer. Serving ends under the waiters' lock too, so who finds that somebody serves may rely on it.
//! A writer that there never will be room for is refused in its turn: it would hold up all behind it.
//!
//! # Who is told that entries have left
//!
//! Entries leave a drain in order, and who drains tells of them under `ledger`. Entries that are evicted or
//! deleted leave the live generation under `live`, perhaps before older ones that drain. Who awaits live
//! entries alone is told at once. Who awaits both is told by the drain, when that is through: it looks at what
//! the live generation has lost meanwhile. If nothing drains, the writer tells; what it reads to know that
//! is stored only after the drain has told of its last entries. Whether anybody waits is read without the lock
//! (`awaiting.rs`): who has entries leave has seen a lock under which those who wait for these have come. The slot of a map that was deleted is left when
//! its generation has been drained, or nothing is held any more.
//!
//! # Locks
//!
//! * Within a partition: `drain`, then `ledger`, then `live`, then one of `awaiting`, `kept` and the buffer's
//!   capacity. Writers take `live` and what comes after it.
//! * The lock of those who wait for room comes before the capacity's, and is taken with no other.
//! * `drain` is held while a batch is copied out, which can take long. Nothing that must not wait takes it
//!   meanwhile: figures and the state of the drain come from the ledger, and a swap returns when the
//!   ledger says that there is something to drain. `ledger` and `live` are held for bounded work only.
//! * Between partitions: nobody holds the locks of two, but for who changes the limit: it takes `ledger`
//!   and `live` of all in ascending order. What else visits several does so one after the other.
//! * What else a buffer locks, such as its settings, is locked apart: never together with a partition.
//! * Under a lock no Erlang code is run, nothing is sent, and no arena that holds entries is dropped: what is to be done
//!   when it is released is left in [`After`](crate::After). Copying into and
//!   out of arenas is all that the VM is asked for; on a normal scheduler it is bounded.
//! * Who waits for `live` to write looks at it a hundred times before it lets others run ([`sync`](crate::sync)): it is
//!   rarely held for longer.
//! * A panic under a lock releases it, and no lock is poisoned (see [`sync`](crate::sync)).
//!
//! # What closing means
//!
//! Closing a partition sets a flag under its `live` lock, and [`write`](crate::Partition::write) looks at
//! it under the same lock. So each write is before the close, and in the live generation, or after
//! it, and refused. Draining goes on; nothing else changes.
//!
//! A write over several partitions has no such point of its own. It enters the [`Gate`](crate::Gate)
//! instead, or is refused there as a whole. Once in, it may finish
//! ([`write_admitted`](crate::Partition::write_admitted)). Closing a [`Buffer`](crate::Buffer) closes the
//! gate first, waits until all that entered have left, and closes the partitions then: when it
//! returns, every accepted write is complete, and there will be no other. The wait is as long as one
//! write takes, since writes that come later leave a closed gate alone.
//!
//! # In turn
//!
//! A live generation may be full with a number of entries, for writes that ask
//! ([`insert`](crate::Partition::insert)). They stand in line while it is full and another one drains:
//! `partition/line.rs` says how, and why no turn is lost. The line is guarded by `live`; who stands in it is
//! counted nowhere, since it has not written yet.
//!
//! # Maps
//!
//! * A slot is held or free, and a chunk of 256 slots knows how many are held. The index has each held
//!   slot once, under the hash of its key. Entries are drained in the order of their slots.
//! * Each living term has one cell that refers to it. A write lets up to three die.
//! * Terms that are packed are in records, one behind the other by size. When one goes, the last one of its size takes
//!   its place, so none of them is dead: a size takes what its records do, and two chunks of 128 at the most. The
//!   bounds that follow are those of terms in segments.
//! * While a map is written to, each class has `total <= 2 * live + slack + a segment` bytes, after every
//!   write: [`map`](crate::map) says why. So a map takes [`SLACK`](crate::map::SLACK) more than twice what
//!   is alive, at the most. The price is a constant number of terms that are moved for each one that dies.
//! * A drain moves nothing: what it leaves behind goes when all terms of its segment are drained, or with
//!   the last batch, which takes no longer for a large map than for a small one.
//!
//! * What is remembered of versions moves to the next live generation with the swap
//!   ([`move_to`](crate::Generation::move_to)), in constant time; `map/versions.rs` says how. It is counted
//!   neither as entries nor as bytes.
//! * A snapshot shows each entry as it was when it began: `map/snapshot.rs` says how. What is
//!   kept for it is beside the map, and none of the bounds above counts it: one more copy of what is overwritten
//!   while it is read, for each reader. It ends with its reader, or with the live generation.
//!
//! # Cells and turns
//!
//! * A [`Cell`](crate::Cell) has one lock, held to exchange a few words. Its version is written under that lock
//!   and may be read without it: who finds the version that it knows needs nothing else.
//! * A value that is more than that is shared by its readers and the cell. Whoever lets it go last drops it, with no
//!   lock held.
//! * [`Turns`](crate::Turns) are a line under one lock. Who has to be told that its turn has come is told after
//!   the lock has been released, by who gave the turn up or saw that it was given up.
//! * Neither lock is taken together with another one.
//!
//! # Memory
//!
//! An arena is owned by exactly one of: a segment of the live or the draining generation, the partition's
//! retired segments, a hand-over to who frees them, or a write that is staging it. It moves between
//! them and is dropped once. Bytes are the weights of entries that are held, and return to zero with
//! them.
//!
//! What a small generation leaves is used again: an emptied generation is the next live one after the next swap
//! ([`move_to`](crate::Generation::move_to)), and keeps a segment of 64 entries and 16 KB at the most, or the tables and a
//! chunk of slots of a map that had 64 entries at the most (`map/emptied.rs`). Such an arena holds nothing and is not
//! counted. So a short cycle makes and frees no memory, and a large one leaves none behind.
