//! Netlink messages: written into one growing buffer, read from a received one.

const HEADER: usize = 16;
const NFGENMSG: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Messages under construction, back to back as one `sendmsg` takes them.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Start of the message being written.
    open: Option<usize>,
    count: u64,
}

/// An attribute that holds attributes, until it is closed.
#[derive(Debug)]
#[must_use = "an open nest has no length yet"]
pub struct Nest(usize);

impl Nest {
    fn start(&self) -> usize {
        self.0
    }
}

impl Buffer {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.open = None;
        self.count = 0;
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Number of messages.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Begins a message of a netfilter subsystem: header and `struct nfgenmsg`.
    /// `version` is 0 but for conntrack filters (1, kernel ≥ 6.12); `resource` is a subsystem
    /// number in batch markers, else 0.
    #[expect(
        clippy::too_many_arguments,
        reason = "the numbers of the two headers, in their order on the wire"
    )]
    pub fn begin(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        family: u8,
        version: u8,
        resource: u16,
    ) {
        let [high, low] = resource.to_be_bytes();
        self.begin_with(kind, flags, seq, &[family, version, high, low]);
    }

    /// Begins a message of any subsystem: header, and what follows it before the attributes.
    pub fn begin_with(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8]) {
        self.end();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.open = Some(start);
        self.count += 1;
    }

    /// Completes the open message. Called by `begin` too; needed once after the last message.
    pub fn end(&mut self) {
        if let Some(start) = self.open.take() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Bytes of the message being written.
    pub fn open_len(&self) -> usize {
        self.open.map_or(0, |start| self.bytes.len() - start)
    }

    /// Sets flags on the last message, open or complete (a batch asks for its ACK there).
    pub fn flag(&mut self, message_start: usize, flags: u16) {
        let at = message_start + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Overwrites bytes written before.
    pub fn patch(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    pub fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// Big-endian, as nfnetlink's integers are.
    pub fn attr_u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Big-endian, as nfnetlink's integers are.
    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Big-endian, as nfnetlink's integers are.
    pub fn attr_u64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// NUL-terminated.
    pub fn attr_str(&mut self, kind: u16, value: &str) {
        let length = (4 + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Opens an attribute that holds attributes. Its length is a u16: the caller keeps what is
    /// inside below 64 KiB (`nest_len`).
    pub fn nest(&mut self, kind: u16) -> Nest {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Nest(start)
    }

    pub fn nest_len(&self, nest: &Nest) -> usize {
        self.bytes.len() - nest.start()
    }

    pub fn close(&mut self, nest: Nest) {
        let length = self.bytes.len() - nest.start();
        debug_assert!(length <= usize::from(u16::MAX), "nested attribute over 64 KiB");
        self.bytes[nest.start()..nest.start() + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    /// The sender's port id in notifications.
    pub port_id: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Family of the `struct nfgenmsg` that netfilter's messages begin with.
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// `res_id` of the `struct nfgenmsg`: the low 16 bits of the ruleset generation in nf_tables.
    pub fn resource(&self) -> u16 {
        match self.payload {
            [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        }
    }

    /// The attributes behind the `struct nfgenmsg`.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(NFGENMSG..).unwrap_or(&[]))
    }
}

/// The messages of one received datagram.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let bytes = self.0;
        if bytes.len() < HEADER {
            return None;
        }
        let u32_at = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let length = u32_at(0) as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        self.0 = bytes.get(align(length)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            seq: u32_at(8),
            port_id: u32_at(12),
            payload: &bytes[HEADER..length],
        })
    }
}

/// One received attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn nested(&self) -> Attributes<'a> {
        Attributes(self.value)
    }

    pub fn u16(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.value.try_into().ok()?))
    }

    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.try_into().ok()?))
    }

    /// Without the terminating NUL.
    pub fn str(&self) -> &'a str {
        let end = self.value.iter().position(|b| *b == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).unwrap_or("")
    }
}

/// Attributes, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of a kind.
    pub fn find(self, kind: u16) -> Option<Attribute<'a>> {
        let mut all = self;
        Iterator::find(&mut all, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let bytes = self.0;
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        if length < 4 || length > bytes.len() {
            return None;
        }
        self.0 = bytes.get(align(length)..).unwrap_or(&[]);
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & TYPE_MASK;
        Some(Attribute { kind, value: &bytes[4..length] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = Buffer::default();
        buffer.begin(7, 1, 42, 2, 0, 10);
        buffer.attr_str(1, "vipd");
        let nest = buffer.nest(2);
        buffer.attr_u32(3, 0xdead_beef);
        buffer.attr_u8(4, 9);
        buffer.close(nest);
        buffer.begin(8, 0, 43, 0, 0, 0);
        buffer.end();
        assert_eq!(buffer.count(), 2);

        let read: Vec<_> = Messages(buffer.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0].kind, read[0].seq, read[0].family(), read[0].resource()),
            (7, 42, 2, 10)
        );
        let attributes = read[0].attributes();
        assert_eq!(attributes.find(1).map(|a| a.str()), Some("vipd"));
        let inner = attributes.find(2).expect("the nest was written").nested();
        assert_eq!(inner.find(3).and_then(|a| a.u32()), Some(0xdead_beef));
        assert_eq!(inner.find(4).map(|a| a.value), Some(&[9u8][..]));
    }

    #[test]
    fn truncated_input_ends_the_iteration() {
        let mut buffer = Buffer::default();
        buffer.begin(7, 1, 42, 2, 0, 0);
        buffer.attr_u32(1, 1);
        buffer.end();
        for cut in 0..buffer.len() {
            assert_eq!(Messages(&buffer.bytes()[..cut]).count(), 0);
        }
        assert_eq!(Attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
