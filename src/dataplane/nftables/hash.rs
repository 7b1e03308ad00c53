//! The kernel's Jenkins hash, so that vipd knows what `jhash` in a rule answers. PURE.

use super::expr::{HASH_MODULUS, HASH_SEED};

/// `jhash(key) mod HASH_MODULUS` as nft_hash.c computes it (`reciprocal_scale`, no offset).
pub fn jhash_scaled(key: &[u8]) -> u32 {
    let hash = jhash(key, HASH_SEED);
    ((u64::from(hash) * u64::from(HASH_MODULUS)) >> 32) as u32
}

/// `jhash()` of include/linux/jhash.h. Registers are 4-byte padded, so keys are whole words.
fn jhash(key: &[u8], seed: u32) -> u32 {
    debug_assert!(key.len().is_multiple_of(4) && !key.is_empty());
    let word =
        |at: usize| key.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let start = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut at = 0;
    while key.len() - at > 12 {
        a = a.wrapping_add(word(at));
        b = b.wrapping_add(word(at + 4));
        c = c.wrapping_add(word(at + 8));
        (a, b, c) = mix(a, b, c);
        at += 12;
    }
    a = a.wrapping_add(word(at));
    b = b.wrapping_add(word(at + 4));
    c = c.wrapping_add(word(at + 8));
    last(a, b, c)
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
