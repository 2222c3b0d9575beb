//! The build context, for an instruction plugin that may read it.

use std::io::Read;
use std::sync::Arc;

use context::Context;
use context::pattern::Pattern;
use oci::tree::{Entry, Kind, Path};
use plugin::imports::{ContextFiles, FileKind, FileStat, ReadError};

/// What the ignore rules have left of a context.
pub(crate) struct Files(pub(crate) Arc<Context>);

impl Files {
    fn find(&self, path: &str) -> Result<(Path, &Entry), ReadError> {
        let path = self.0.tree.resolve_parent(path.as_bytes()).map_err(|error| ReadError::Io(error.to_string()))?;
        let entry = self.0.tree.get(&path).ok_or(ReadError::NotFound)?;
        Ok((path, entry))
    }
}

impl ContextFiles for Files {
    fn stat(&self, path: &str) -> Result<FileStat, ReadError> {
        let (_, entry) = self.find(path)?;
        let (kind, size) = match &entry.kind {
            Kind::File(file) => (FileKind::Regular, file.size),
            Kind::Dir { .. } => (FileKind::Directory, 0),
            Kind::Symlink(target) => (FileKind::Symlink, target.len() as u64),
            _ => return Err(ReadError::Io("it is neither file, directory nor link".into())),
        };
        Ok(FileStat { kind, size, mode: entry.mode })
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::NotFound,
            _ => ReadError::Io(error.to_string()),
        };
        let file = crate::open_in_context(&self.0, path).map_err(failed)?;
        let mut bytes = Vec::new();
        // One more than may be, so that what is too long shows.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        match bytes.len() as u64 {
            length if length > limit => Err(ReadError::TooLarge(length)),
            _ => Ok(bytes),
        }
    }

    fn glob(&self, pattern: &str) -> Result<Vec<String>, ReadError> {
        let clean = oci::tree::clean(pattern.as_bytes());
        let pattern = Pattern::crossing(&clean).map_err(|error| ReadError::Io(error.to_string()))?;
        let found = self.0.tree.iter().filter(|(path, _)| pattern.matches(path));
        Ok(found.map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.txt"), "text").expect("a file");
        std::fs::write(folder.path().join("secret"), "hidden").expect("a file");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).expect("a link");
        let rules = context::ignore::parse("secret").expect("rules");
        let files = Files(Arc::new(context::local(folder.path(), &rules).expect("a context")));
        assert_eq!(files.read("a.txt", 10), Ok(b"text".to_vec()));
        assert_eq!(files.read("a.txt", 3), Err(ReadError::TooLarge(4)));
        assert_eq!(files.read("secret", 10), Err(ReadError::NotFound));
        assert_eq!(files.read("out", 10), Err(ReadError::NotFound));
        assert_eq!(files.read("../../etc/passwd", 10), Err(ReadError::NotFound));
        assert_eq!(files.glob("*.txt"), Ok(vec!["a.txt".to_owned()]));
        assert_eq!(files.stat("out").map(|stat| stat.kind), Ok(FileKind::Symlink));
    }
}
