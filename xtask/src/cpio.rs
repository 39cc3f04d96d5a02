//! An archive as Linux unpacks it for its first programs. SPEC: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`, "newc".

const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being made. Folders come before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, path: &str, bytes: &[u8]) {
        self.entry(path, FILE | 0o755, (0, 0), bytes);
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        self.entry(path, FILE | 0o644, (0, 0), bytes);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a device of characters, by its major and minor number.
    pub fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | 0o600, number, &[]);
    }

    /// The archive, ended.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// Adds anything. Names and contents begin, and end, at multiples of four bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (number, links, nobody) = (self.entries, 1, 0);
        let fields = [
            number,
            mode,
            nobody,
            nobody,
            links,
            // The time: none, so that the same contents are the same archive.
            0,
            size(contents.len()),
            // The device that the archive was made on.
            0,
            0,
            device.0,
            device.1,
            size(name.len() + 1),
            // A sum that is none.
            0,
        ];
        self.bytes.extend(b"070701");
        let fields = fields.map(|field| format!("{field:08x}"));
        self.bytes.extend(fields.concat().bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.fill();
        self.bytes.extend(contents);
        self.fill();
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn the_archive_is_what_linux_takes() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", (5, 1));
        archive.program("init", b"abcde");
        archive.link("sh", "init");
        let zeros = "0".repeat(8);
        let header = |number: u32, mode: &str, size: &str, device: &str, name: &str| {
            let ids = zeros.repeat(2);
            format!(
                "070701{number:08x}{mode}{ids}00000001{zeros}{size}{zeros}{zeros}{device}{name}{zeros}"
            )
        };
        let none = zeros.repeat(2);
        let expected = [
            header(1, "000041ed", &zeros, &none, "00000004"),
            "dev\0\0\0".into(),
            header(2, "00002180", &zeros, "0000000500000001", "0000000c"),
            "dev/console\0\0\0".into(),
            header(3, "000081ed", "00000005", &none, "00000005"),
            "init\0\0".into(),
            "abcde\0\0\0".into(),
            header(4, "0000a1ff", "00000004", &none, "00000003"),
            "sh\0\0\0\0".into(),
            "init".into(),
            header(5, &zeros, &zeros, &none, "0000000b"),
            "TRAILER!!!\0\0\0\0".into(),
        ];
        assert_eq!(
            String::from_utf8(archive.finish()).unwrap(),
            expected.concat()
        );
    }
}
