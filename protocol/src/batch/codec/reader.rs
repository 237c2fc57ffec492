//! Reading untrusted bytes front to back.
//!
//! Invariant: nothing is read or allocated beyond the bytes that remain.

use super::unzigzag;
use crate::batch::DecodeError;

/// What is left of some bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that are left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// A byte.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A little-endian number of four bytes.
    ///
    /// # Errors
    /// Fewer bytes are left.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// An unsigned LEB128 number in the fewest bytes.
    ///
    /// # Errors
    /// Fewer bytes are left, or the number is no valid one.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid("a number is too long"))
    }

    /// A signed number, as [`super::zigzag`] folds it.
    ///
    /// # Errors
    /// Fewer bytes are left, or the number is no valid one.
    pub fn zigzag(&mut self) -> Result<i64, DecodeError> {
        self.varint().map(unzigzag)
    }

    /// A count of things that take at least `per` bytes each.
    ///
    /// # Errors
    /// Fewer bytes are left, or the number is no valid one.
    pub fn count(&mut self, per: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        self.count_check(count, per)
    }

    /// A count known from elsewhere, of things that take at least `per` bytes each.
    ///
    /// # Errors
    /// Fewer bytes are left, or the number is no valid one.
    pub fn count_check(&self, count: usize, per: usize) -> Result<usize, DecodeError> {
        let least = count.checked_mul(per).ok_or(DecodeError::Truncated)?;
        if least > self.remaining() { Err(DecodeError::Truncated) } else { Ok(count) }
    }

    /// A length and that many bytes.
    ///
    /// # Errors
    /// Fewer bytes are left, or the number is no valid one.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.count(1)?;
        self.take(len)
    }

    /// Refuses bytes that are left over.
    ///
    /// # Errors
    /// There are some.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Invalid("bytes are left over")) }
    }
}
