//! The fields of a message.
use crate::Malformed;

/// Writes a message, one field after the other.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    pub fn of_flag(kind: u8, flag: bool) -> Vec<u8> {
        let mut out = Self::new(kind);
        out.flag(flag);
        out.finish()
    }

    pub fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    pub fn number32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub fn number64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub fn text(&mut self, text: &[u8]) {
        self.number32(text.len() as u32);
        self.0.extend_from_slice(text);
    }

    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// Reads a message.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Result<(u8, Self), Malformed> {
        let (kind, fields) = message.split_first().ok_or(Malformed)?;
        Ok((*kind, Self(fields)))
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.bytes(1)?[0] != 0)
    }

    pub fn number32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.bytes(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn number64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.bytes(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.number32()? as usize;
        Ok(self.bytes(length)?.to_vec())
    }

    pub fn words(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(&self.text()?).into_owned())
    }
}
