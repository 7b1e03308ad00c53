//! Pool numbers: 20 bits that name a pool in elements and pins. PURE.

use super::set::MAX_POOL;
use crate::model::ServiceKey;

/// Which numbers are in use, and by whom.
#[derive(Debug, Default)]
pub struct PoolNumbers {
    /// Indexed by number; 0 is never given out (it stands for "no pool").
    owners: Vec<Option<ServiceKey>>,
    free: Vec<u32>,
    used: u32,
}

impl PoolNumbers {
    /// `None`: all 2^20 − 1 are in use.
    pub fn allocate(&mut self, owner: &ServiceKey) -> Option<u32> {
        while let Some(number) = self.free.pop() {
            // A number may have been adopted since it was freed.
            if self.owners[number as usize].is_none() {
                self.owners[number as usize] = Some(owner.clone());
                self.used += 1;
                return Some(number);
            }
        }
        if self.owners.is_empty() {
            self.owners.push(None);
        }
        let number = self.owners.len() as u32;
        if number > MAX_POOL {
            return None;
        }
        self.owners.push(Some(owner.clone()));
        self.used += 1;
        Some(number)
    }

    /// Takes a number that the kernel holds already. False if it is taken.
    pub fn adopt(&mut self, number: u32, owner: &ServiceKey) -> bool {
        if number == 0 || number > MAX_POOL {
            return false;
        }
        if self.owners.is_empty() {
            self.owners.push(None);
        }
        while self.owners.len() as u32 <= number {
            self.free.push(self.owners.len() as u32);
            self.owners.push(None);
        }
        let slot = &mut self.owners[number as usize];
        if slot.is_some() {
            return false;
        }
        *slot = Some(owner.clone());
        self.used += 1;
        true
    }

    /// Only once nothing in the kernel uses the number any more.
    pub fn free(&mut self, number: u32) {
        if let Some(owner) = self.owners.get_mut(number as usize)
            && owner.take().is_some()
        {
            self.used -= 1;
            self.free.push(number);
        }
    }

    pub fn owner(&self, number: u32) -> Option<&ServiceKey> {
        self.owners.get(number as usize)?.as_ref()
    }
}
