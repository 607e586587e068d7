//! What a process did to files and said, read from strace's log of it.

use std::collections::HashMap;
use std::path::Path;

use crate::claims::Claims;
use crate::image::{Id, Image, ROOT};

/// What the log has to hold: every call that changes a file of a store or makes it durable, and what the process says.
pub(crate) const OPTIONS: [&str; 5] = [
    "-xx",
    "-s",
    "16777216",
    "-e",
    "trace=openat,write,pwrite64,fsync,fdatasync,rename,unlink,mkdir,rmdir,ftruncate,fallocate",
];

/// Paths are relative to the image's root, `""` itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create(String),
    MakeFolder(String),
    Write(String, usize, Vec<u8>),
    /// Only an allocation leaves a longer file as it is.
    Resize(String, usize, Allocation),
    Rename(String, String),
    Remove(String),
    Sync(String),
    Say(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    Yes,
    No,
}

/// All operations of a log on files below `root`, in order. The process must have one thread that does such things.
pub(crate) fn read(log: &str, root: &Path) -> Result<Vec<Operation>, String> {
    let mut reader = Reader { root: format!("{}/", root.display()), ends: HashMap::new() };
    let mut operations = Vec::new();
    for line in log.lines() {
        let operation = reader.line(line).map_err(|what| format!("{what} in the log's line {line:.300}"))?;
        operations.extend(operation);
    }
    Ok(operations)
}

struct Reader {
    root: String,
    /// Where the next `write` goes, for each descriptor.
    ends: HashMap<String, usize>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<Option<Operation>, String> {
        let call = line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('('));
        let Some((name, rest)) = call else { return Ok(None) };
        let (arguments, result) = rest.rsplit_once(" = ").ok_or("a call without a result")?;
        if result.starts_with('-') {
            return Ok(None);
        }
        let arguments = arguments.trim_end().trim_end_matches(')');
        let arguments: Vec<&str> = arguments.split(", ").collect();
        self.call(name, &arguments, result)
    }

    fn call(&mut self, name: &str, arguments: &[&str], result: &str) -> Result<Option<Operation>, String> {
        let root = self.root.clone();
        let number = |at: usize| -> Result<usize, String> {
            arguments.get(at).and_then(|n| n.parse().ok()).ok_or_else(|| format!("no number {at}"))
        };
        let bytes = |at: usize| arguments.get(at).ok_or("too few arguments").and_then(|text| unhex(text));
        let path = |at: usize| bytes(at).map(|path| below(&root, &path));
        let descriptor =
            || arguments.first().and_then(|text| text.split('<').next()).unwrap_or_default().to_owned();
        Ok(match name {
            "openat" => {
                self.ends.insert(result.split('<').next().unwrap_or_default().to_owned(), 0);
                let creates = arguments.get(2).is_some_and(|flags| flags.contains("O_CREAT"));
                path(1)?.filter(|_| creates).map(Operation::Create)
            }
            "write" if descriptor() == "1" => {
                let said = String::from_utf8_lossy(&bytes(1)?).into_owned();
                Some(Operation::Say(said))
            }
            "write" => {
                let (path, data) = (path(0)?, bytes(1)?);
                let end = self.ends.entry(descriptor()).or_default();
                *end += data.len();
                path.map(|path| Operation::Write(path, *end - data.len(), data))
            }
            "pwrite64" => match path(0)? {
                Some(path) => Some(Operation::Write(path, number(3)?, bytes(1)?)),
                None => None,
            },
            "fallocate" => match path(0)? {
                Some(path) => Some(Operation::Resize(path, number(2)? + number(3)?, Allocation::Yes)),
                None => None,
            },
            "ftruncate" => match path(0)? {
                Some(path) => Some(Operation::Resize(path, number(1)?, Allocation::No)),
                None => None,
            },
            "mkdir" => path(0)?.map(Operation::MakeFolder),
            "unlink" | "rmdir" => path(0)?.map(Operation::Remove),
            "rename" => path(0)?.zip(path(1)?).map(|(from, to)| Operation::Rename(from, to)),
            "fsync" | "fdatasync" => path(0)?.map(Operation::Sync),
            _ => return Err(format!("an unknown call {name}")),
        })
    }
}

/// A path relative to the root, if it is below it.
fn below(root: &str, path: &[u8]) -> Option<String> {
    let path = String::from_utf8_lossy(path);
    if format!("{path}/") == root {
        return Some(String::new());
    }
    path.strip_prefix(root).map(str::to_owned)
}

/// The bytes of a string `"\x41\x42"`, or of the path of a descriptor `3<\x41\x42>`.
fn unhex(text: &str) -> Result<Vec<u8>, &'static str> {
    let Some(hex) = text.split(['"', '<']).nth(1) else { return Err("not a string") };
    let hex = hex.trim_end_matches('>');
    if text.ends_with("...") {
        return Err("a string that was cut off");
    }
    hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).map_err(|_| "not hexadecimal")).collect()
}

impl Operation {
    /// Does it to the image, or takes in what was said.
    pub(crate) fn apply(&self, image: &mut Image, claims: &mut Claims) -> Result<(), String> {
        let wrong = |kind: std::io::ErrorKind| format!("{kind} when the log did this: {self:.200?}");
        match self {
            Operation::Create(path) => {
                let (folder, name) = place(image, path)?;
                if image.find(folder, name).is_none() {
                    image.make_file(folder, name).map_err(wrong)?;
                }
                Ok(())
            }
            Operation::MakeFolder(path) => {
                let (folder, name) = place(image, path)?;
                image.make_folder(folder, name).map(drop).map_err(wrong)
            }
            Operation::Write(path, offset, data) => {
                let id = find(image, path)?;
                image.write(id, *offset, data).map_err(wrong)
            }
            Operation::Resize(path, size, allocation) => {
                let id = find(image, path)?;
                let longer = image.data(id).is_some_and(|data| data.len() >= *size);
                if longer && *allocation == Allocation::Yes {
                    Ok(())
                } else {
                    image.resize(id, *size).map_err(wrong)
                }
            }
            Operation::Rename(from, to) => {
                let (from, to) = (place(image, from)?, place(image, to)?);
                image.rename(from, to).map_err(wrong)
            }
            Operation::Remove(path) => {
                let (folder, name) = place(image, path)?;
                image.remove(folder, name).map_err(wrong)
            }
            Operation::Sync(path) => {
                let id = find(image, path)?;
                match image.folder(id).is_some() {
                    true => image.sync_folder(id),
                    false => image.sync(id).map_err(wrong)?,
                }
                Ok(())
            }
            Operation::Say(text) => text.lines().try_for_each(|line| claims.line(line)),
        }
    }
}

fn find(image: &Image, path: &str) -> Result<Id, String> {
    let mut names = path.split('/').filter(|name| !name.is_empty());
    names
        .try_fold(ROOT, |folder, name| image.find(folder, name))
        .ok_or_else(|| format!("there is no {path:?}"))
}

/// The folder of a path, and the name in it.
fn place<'path>(image: &Image, path: &'path str) -> Result<(Id, &'path str), String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((find(image, folder)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let log = concat!(
            "12 openat(AT_FDCWD<\\x2f>, \"\\x2f\\x73\\x2f\\x61\", O_RDWR|O_CREAT, 0600) = 3<\\x2f\\x73\\x2f\\x61>\n",
            "12 write(3<\\x2f\\x73\\x2f\\x61>, \"\\x31\\x32\", 2) = 2\n",
            "12 write(3<\\x2f\\x73\\x2f\\x61>, \"\\x33\", 1) = 1\n",
            "12 unlink(\"\\x2f\\x73\\x2f\\x62\") = -1 ENOENT (No such file or directory)\n",
            "12 write(1<\\x70>, \"\\x6f\\x0a\", 2) = 2\n",
            "12 fsync(4<\\x2f\\x73>) = 0\n",
            "12 fsync(4<\\x2f>)      = 0\n",
            "12 +++ exited with 0 +++\n",
        );
        let a = || "a".to_owned();
        let expected = vec![
            Operation::Create(a()),
            Operation::Write(a(), 0, b"12".to_vec()),
            Operation::Write(a(), 2, b"3".to_vec()),
            Operation::Say("o\n".to_owned()),
            Operation::Sync(String::new()),
        ];
        assert_eq!(read(log, Path::new("/s")), Ok(expected));
    }
}
