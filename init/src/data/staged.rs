//! Writes that are collected first, and brought to the disk in an order of our own.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom, Write},
};

use super::table::Disk;

/// Bytes that are written as one: no disk has smaller sectors.
const PIECE: usize = 512;

/// A disk that reads as if what was written to it was there already.
#[derive(Debug)]
pub(super) struct Staged<'a, D> {
    disk: &'a mut D,
    /// Size of the disk in bytes.
    size: u64,
    at: u64,
    /// By their place in bytes.
    pieces: BTreeMap<u64, [u8; PIECE]>,
}

impl<'a, D: Disk> Staged<'a, D> {
    pub(super) fn new(disk: &'a mut D, size: u64) -> Self {
        Self { disk, size, at: 0, pieces: BTreeMap::new() }
    }

    /// Brings to the disk what was written from byte `first` on, and returns when it is there.
    pub(super) fn write_from(&mut self, first: u64) -> io::Result<()> {
        for (at, piece) in self.pieces.split_off(&first) {
            self.disk.seek(SeekFrom::Start(at))?;
            self.disk.write_all(&piece)?;
        }
        self.disk.sync()
    }

    /// The piece around `at`, its place, and where in it that is.
    fn piece(&mut self, at: u64) -> io::Result<(u64, [u8; PIECE], usize)> {
        let inside = at % PIECE as u64;
        let start = at - inside;
        let piece = match self.pieces.get(&start) {
            Some(piece) => *piece,
            None => {
                let mut piece = [0; PIECE];
                self.disk.seek(SeekFrom::Start(start))?;
                self.disk.read_exact(&mut piece)?;
                piece
            }
        };
        Ok((start, piece, usize::try_from(inside).unwrap_or(0)))
    }
}

impl<D: Disk> Read for Staged<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, piece, inside) = self.piece(self.at)?;
        let count = piece.get(inside..).unwrap_or_default().read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<D: Disk> Write for Staged<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, mut piece, inside) = self.piece(self.at)?;
        let count = piece.get_mut(inside..).unwrap_or_default().write(bytes)?;
        self.pieces.insert(start, piece);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Disk> Seek for Staged<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.size, by),
        };
        self.at = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
