//! Tags: the images of the store, as the index of its image layout lists them.

use oci::{Descriptor, Digest, Index, REF_NAME, Reference, digest_of};

use crate::error::{At, Error};
use crate::layout::Store;

/// An image and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// In full.
    pub reference: Reference,
    /// Of its manifest or index.
    pub descriptor: Descriptor,
}

impl Store {
    fn read_images(&self) -> Result<Index, Error> {
        let path = self.image_index();
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut index = Index::default();
                index.set_schema_version(2);
                index.set_media_type(Some(oci::media_type::OCI_INDEX.into()));
                return Ok(index);
            }
            result => result.at(&path)?,
        };
        serde_json::from_slice(&bytes).map_err(|error| Error::Damaged { path, reason: error.to_string() })
    }

    /// Changes the list of tags, one process at a time.
    fn edit_images<T>(&self, edit: impl FnOnce(&mut Vec<Descriptor>) -> T) -> Result<T, Error> {
        let _lock = self.lock("images")?;
        let mut index = self.read_images()?;
        let mut manifests = index.manifests().clone();
        let result = edit(&mut manifests);
        manifests.sort_by_key(|descriptor| name_of(descriptor).map(str::to_owned));
        if manifests == *index.manifests() {
            return Ok(result);
        }
        index.set_manifests(manifests);
        let path = self.image_index();
        let text = serde_json::to_vec(&index)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        self.replace(&path, &text)?;
        Ok(result)
    }

    /// All images that have a name, sorted by it.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn images(&self) -> Result<Vec<Tagged>, Error> {
        let index = self.read_images()?;
        let tagged = |descriptor: &Descriptor| {
            let reference = name_of(descriptor)?.parse().ok()?;
            Some(Tagged { reference, descriptor: descriptor.clone() })
        };
        Ok(index.manifests().iter().filter_map(tagged).collect())
    }

    /// The image of this name, or of this digest when the reference is pinned.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn image(&self, reference: &Reference) -> Result<Option<Tagged>, Error> {
        let wanted = reference.to_string();
        let matches = |tagged: &Tagged| match reference.digest() {
            Some(digest) => tagged.reference.name() == reference.name() && digest_of(&tagged.descriptor) == Ok(digest),
            None => tagged.reference.to_string() == wanted,
        };
        Ok(self.images()?.into_iter().find(matches))
    }

    /// Gives an image a name, taking it from whatever had it.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<(), Error> {
        let name = reference.to_string();
        let mut named = descriptor.clone();
        let mut annotations = named.annotations().clone().unwrap_or_default();
        annotations.insert(REF_NAME.to_owned(), name.clone());
        named.set_annotations(Some(annotations));
        self.edit_images(|manifests| {
            manifests.retain(|old| name_of(old) != Some(&name));
            manifests.push(named);
        })
    }

    /// Takes a name away; gives what had it.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub fn untag(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let name = reference.to_string();
        self.edit_images(|manifests| {
            let at = manifests.iter().position(|descriptor| name_of(descriptor) == Some(&name))?;
            digest_of(&manifests.remove(at)).ok()
        })
    }
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}
