//! When clients' writes were sent and acknowledged: what a backup of their server must hold.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

/// When one write was sent and when its acknowledgement had arrived, in realtime nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// Just before it was sent.
    pub sent: u64,
    /// Just after it was acknowledged.
    pub acked: u64,
}

/// Every client's writes in order.
pub struct Acks(pub Vec<Vec<Ack>>);

impl Acks {
    /// How many of a client's writes were acknowledged before `point`, and how many had been sent: a state at `point`
    /// holds at least the first and at most the second.
    pub fn bounds(&self, client: usize, point: u64) -> (u64, u64) {
        let log = &self.0[client];
        (log.partition_point(|op| op.acked < point) as u64, log.partition_point(|op| op.sent <= point) as u64)
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.0.len()
    }

    /// How many writes were acknowledged in all.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|log| log.len() as u64).sum()
    }
}
