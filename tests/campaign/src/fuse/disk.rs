//! A file system in memory, of which the power can be cut.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::image::{Id, Image};

/// The kernel may keep what it knows: nobody else changes it.
const KEEP: Duration = Duration::from_secs(3600);
const NO_HANDLE: FileHandle = FileHandle(0);
const FIRST: Generation = Generation(0);

#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct State {
    image: Image,
    /// Operations that are counted, until the power is cut; `None`: it is not going to be.
    left: Option<u64>,
    counted: Counted,
}

/// Which operations are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// All that change something or make it durable.
    All,
    /// Writes to segments.
    Segments,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        Disk(Arc::new((
            Mutex::new(State { image: Image::new(), left: None, counted: Counted::All }),
            Condvar::new(),
        )))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power after so many operations: all that come later fail, and change nothing.
    pub(crate) fn cut_after(&self, operations: u64, counted: Counted) {
        let mut state = self.state();
        (state.left, state.counted) = (Some(operations), counted);
    }

    /// Cuts the power.
    pub(crate) fn cut_now(&self) {
        self.cut_after(0, Counted::All);
    }

    /// Waits for the cut, at most so long; whether it has come.
    pub(crate) fn wait_for_cut(&self, limit: Duration) -> bool {
        let wait = |state: &mut State| state.left != Some(0);
        let (state, _) =
            self.0.1.wait_timeout_while(self.state(), limit, wait).unwrap_or_else(PoisonError::into_inner);
        state.left == Some(0)
    }

    /// What is in the files after the cut, and power again.
    pub(crate) fn restart(&self, crash: impl FnOnce(&mut Image)) {
        let mut state = self.state();
        crash(&mut state.image);
        state.left = None;
    }

    fn look<T>(&self, look: impl FnOnce(&Image) -> Result<T, ErrorKind>) -> Result<T, Errno> {
        let state = self.state();
        if state.left == Some(0) { Err(Errno::EIO) } else { look(&state.image).map_err(errno) }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Image) -> Result<T, ErrorKind>) -> Result<T, Errno> {
        self.change_and_count(|_| false, change)
    }

    fn change_and_count<T>(
        &self,
        is_of_segment: impl FnOnce(&Image) -> bool,
        change: impl FnOnce(&mut Image) -> Result<T, ErrorKind>,
    ) -> Result<T, Errno> {
        let mut state = self.state();
        if state.left == Some(0) {
            return Err(Errno::EIO);
        }
        if state.counted == Counted::All || is_of_segment(&state.image) {
            state.left = state.left.map(|left| left - 1);
        }
        if state.left == Some(0) {
            self.0.1.notify_all();
        }
        change(&mut state.image).map_err(errno)
    }
}

fn errno(error: ErrorKind) -> Errno {
    match error {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        _ => Errno::EINVAL,
    }
}

fn text(name: &OsStr) -> Result<&str, ErrorKind> {
    name.to_str().ok_or(ErrorKind::InvalidInput)
}

fn size(bytes: u64) -> Result<usize, ErrorKind> {
    usize::try_from(bytes).map_err(|_| ErrorKind::InvalidInput)
}

fn attributes(image: &Image, id: Id) -> FileAttr {
    let data = image.data(id);
    let size = data.map_or(0, |data| data.len() as u64);
    FileAttr {
        ino: INodeNo(id),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if data.is_some() { FileType::RegularFile } else { FileType::Directory },
        perm: if data.is_some() { 0o600 } else { 0o700 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(reply: ReplyEntry, found: Result<FileAttr, Errno>) {
    match found {
        Ok(attributes) => reply.entry(&KEEP, &attributes, FIRST),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(
            reply,
            self.look(|image| {
                let id = image.find(parent.0, text(name)?).ok_or(ErrorKind::NotFound)?;
                Ok(attributes(image, id))
            }),
        );
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|image| Ok(attributes(image, ino.0))) {
            Ok(attributes) => reply.attr(&KEEP, &attributes),
            Err(error) => reply.error(error),
        }
    }

    /// Only the size is kept.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        bytes: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.change(|image| {
            bytes.map_or(Ok(()), |bytes| image.resize(ino.0, size(bytes)?))?;
            Ok(attributes(image, ino.0))
        });
        match done {
            Ok(attributes) => reply.attr(&KEEP, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entry(
            reply,
            self.change(|image| {
                let id = image.make_folder(parent.0, text(name)?)?;
                Ok(attributes(image, id))
            }),
        );
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.change(|image| {
            let id = image.make_file(parent.0, text(name)?)?;
            Ok(attributes(image, id))
        });
        match made {
            Ok(attributes) => reply.created(&KEEP, &attributes, FIRST, NO_HANDLE, FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.change(|image| image.remove(parent.0, text(name)?)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.change(|image| image.remove(parent.0, text(name)?)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.change(|image| image.rename((parent.0, text(name)?), (to.0, text(new)?))));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.look(|image| {
            let data = image.data(ino.0).ok_or(ErrorKind::IsADirectory)?;
            let start = size(offset)?.min(data.len());
            let end = start.saturating_add(size(bytes.into())?).min(data.len());
            Ok(data[start..end].to_vec())
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change_and_count(
            |image| image.name(ino.0).is_some_and(|name| name.ends_with(".seg")),
            |image| image.write(ino.0, size(offset)?, data),
        ) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.change(|image| image.sync(ino.0)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(
            reply,
            self.change(|image| {
                image.sync_folder(ino.0);
                Ok(())
            }),
        );
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        empty(
            reply,
            self.change(|image| {
                let end = size(offset.checked_add(length).ok_or(ErrorKind::InvalidInput)?)?;
                let longer = image.data(ino.0).is_some_and(|data| data.len() < end);
                if longer { image.resize(ino.0, end) } else { Ok(()) }
            }),
        );
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = self.look(|image| {
            let names = image.folder(ino.0).ok_or(ErrorKind::NotADirectory)?;
            let of = |(name, id): (&String, &Id)| (name.clone(), attributes(image, *id));
            Ok(names.iter().map(of).collect::<Vec<_>>())
        });
        match names {
            Ok(names) => {
                for ((name, found), at) in names.into_iter().zip(1..).skip_while(|(_, at)| *at <= offset) {
                    if reply.add(found.ino, at, found.kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
