//! Who owns a file or folder, and who else its mode lets in. No other file of this program compares
//! owners or modes.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Mode bits that give group or others any access.
const GROUP_OR_OTHER: u32 = 0o077;
/// The group's read bit.
const GROUP_READ: u32 = 0o040;
/// The read bit of all other users.
const OTHER_READ: u32 = 0o004;
/// The write bit of all other users.
const OTHER_WRITE: u32 = 0o002;
const ROOT: u32 = 0;

/// The user whose rights this process has.
pub fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Owner and mode of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user that it belongs to.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Access {
    /// What the metadata says.
    pub fn of(metadata: &Metadata) -> Self {
        Self { owner: metadata.uid(), mode: metadata.mode() & 0o7777 }
    }

    /// True if it belongs to the user of this process.
    pub fn is_ours(self) -> bool {
        self.owner == current_user()
    }

    /// True if it belongs to us or to root, who could change anything of ours anyway. Service
    /// managers hand over credentials as root's files.
    pub fn is_ours_or_roots(self) -> bool {
        self.is_ours() || self.owner == ROOT
    }

    /// True if its mode gives group or others any access.
    pub fn is_too_permissive(self) -> bool {
        self.mode & GROUP_OR_OTHER != 0
    }

    /// The same for a file that a service manager may have handed over: it belongs to root, an
    /// access list opens it for us, and the mask of that list shows in the group's read bit.
    pub fn is_too_permissive_for_credential(self) -> bool {
        let is_handed_over = self.owner == ROOT && !self.is_ours();
        let allowed = if is_handed_over { GROUP_READ } else { 0 };
        self.mode & GROUP_OR_OTHER & !allowed != 0
    }

    /// True if any user of this machine can read it.
    pub fn is_world_readable(self) -> bool {
        self.mode & OTHER_READ != 0
    }

    /// True if any user of this machine can change it.
    pub fn is_world_writable(self) -> bool {
        self.mode & OTHER_WRITE != 0
    }
}

/// The nearest existing folder above a path that belongs to another user, and that user's id, if
/// that is why the path cannot be reached.
pub fn parent_of_another_user(path: &Path) -> Option<(&Path, u32)> {
    let mut above = path.ancestors().skip(1);
    let (parent, metadata) =
        above.find_map(|above| Some((above, fs::symlink_metadata(above).ok()?)))?;
    let access = Access::of(&metadata);
    (!access.is_ours()).then_some((parent, access.owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(owner: u32, mode: u32) -> Access {
        Access { owner, mode }
    }

    #[test]
    fn any_bit_for_group_or_others_is_too_permissive() {
        let me = current_user();
        for private in [0o600, 0o700, 0o400, 0o4700] {
            assert!(!access(me, private).is_too_permissive(), "{private:o}");
            assert!(!access(me, private).is_too_permissive_for_credential(), "{private:o}");
        }
        for open in [0o640, 0o604, 0o601, 0o610, 0o620, 0o602] {
            assert!(access(me, open).is_too_permissive(), "{open:o}");
            assert!(access(me, open).is_too_permissive_for_credential(), "{open:o}");
        }
        assert!(access(me, 0o602).is_world_writable() && !access(me, 0o664).is_world_writable());
        assert!(access(me, 0o604).is_world_readable() && !access(me, 0o662).is_world_readable());
    }

    #[test]
    fn only_root_may_hand_over_a_file_that_its_group_can_read() {
        let is_root = current_user() == ROOT;
        assert_eq!(access(ROOT, 0o440).is_too_permissive_for_credential(), is_root);
        assert!(access(ROOT, 0o444).is_too_permissive_for_credential());
        assert!(access(ROOT, 0o600).is_ours_or_roots());
        assert!(!access(current_user() + 1, 0o600).is_ours_or_roots());
    }
}
