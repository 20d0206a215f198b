//! What a shared library says of itself without being loaded: its name, what it needs, and for which GPUs it has code.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use elf::ElfStream;
use elf::abi::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, EM_386, EM_AARCH64, EM_PPC64, EM_RISCV, EM_X86_64, PT_LOAD,
};
use elf::endian::AnyEndian;
use elf::file::Class;

/// A shared library by its headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Elf {
    /// For another processor, or another size of addresses: no program here loads it.
    pub foreign: bool,
    /// The processor that it is for, such as `aarch64`; its number in elf.h where that is not known here.
    pub processor: String,
    /// The name that programs are linked with.
    pub soname: Option<String>,
    /// Libraries that it needs.
    pub needs: Vec<String>,
    /// Folders of its own in which they are looked for, `$ORIGIN` being its own.
    pub paths: Vec<String>,
    /// Compute capabilities with machine code, ascending: 90 is sm_90.
    pub code: Vec<u32>,
    /// Compute capabilities with PTX, ascending.
    pub ptx: Vec<u32>,
    /// Where its constants lie in the file, and how many bytes there are.
    pub constants: Option<(u64, u64)>,
}

impl Elf {
    /// What follows `mark` among the constants, up to the first byte that is no digit and no dot: `12.4` after `+cuda`.
    pub fn number_after(&self, path: &Path, mark: &[u8]) -> Option<String> {
        let (offset, size) = self.constants?;
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::Start(offset)).ok()?;
        let mut bytes = Vec::new();
        file.take(size.min(MAX_CONSTANTS)).read_to_end(&mut bytes).ok()?;
        let is_number = |b: &&u8| b.is_ascii_digit() || **b == b'.';
        bytes.windows(mark.len()).enumerate().filter(|(_, w)| *w == mark).find_map(|(at, _)| {
            let number: Vec<u8> = bytes[at + mark.len()..].iter().take(16).take_while(is_number).copied().collect();
            String::from_utf8(number).ok().filter(|n| n.starts_with(|c: char| c.is_ascii_digit()))
        })
    }
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is no shared library: {message}")]
    Junk { path: PathBuf, message: String },
    #[error("{path} is cut short: its headers speak of {wants} bytes, and it has {has}")]
    Short { path: PathBuf, has: u64, wants: u64 },
}

impl ElfError {
    /// What is wrong, without the file's name.
    pub fn reason(&self) -> String {
        match self {
            ElfError::Io { source, .. } => source.to_string(),
            ElfError::Junk { message, .. } => format!("no shared library: {message}"),
            ElfError::Short { has, wants, .. } => {
                format!("cut short: its headers speak of {wants} bytes, and it has {has}")
            }
        }
    }
}

/// The processor of this build.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
/// Sections that hold code for GPUs: linked as they are, and relocatable.
const SECTIONS: &[&str] = &[".nv_fatbin", "__nv_relfatbin"];
/// Where a container of GPU code begins (`fatbinary_section.h` and cuobjdump's output agree).
const MAGIC: u32 = 0xba55_ed50;
const CONTAINER: u64 = 16;
/// Up to the compute capability, which is all that is read of an entry.
const ENTRY: usize = 32;
const KIND_PTX: u16 = 1;
/// More entries than any library has; cuBLASLt of CUDA 13 has 5400.
const MAX_ENTRIES: usize = 100_000;
/// More constants than that are not searched.
const MAX_CONSTANTS: u64 = 64 << 20;
/// Beyond this no padding between two containers goes.
const MAX_GAP: u64 = 4096;

/// Reads the headers of a shared library; of GPU code the entries' heads alone, whatever its size.
pub fn elf(path: &Path) -> Result<Elf, ElfError> {
    let io = |source| ElfError::Io { path: path.to_owned(), source };
    let (mut out, places) = headers(path)?;
    let mut file = File::open(path).map_err(io)?;
    for (offset, size) in places {
        gpu_code(&mut file, offset, offset.saturating_add(size), &mut out).map_err(io)?;
    }
    for list in [&mut out.code, &mut out.ptx] {
        list.sort_unstable();
        list.dedup();
    }
    Ok(out)
}

/// Reads the headers alone, and looks for no GPU code.
pub fn head(path: &Path) -> Result<Elf, ElfError> {
    headers(path).map(|(out, _)| out)
}

/// The headers, and where code for GPUs lies in the file: offset and size.
fn headers(path: &Path) -> Result<(Elf, Vec<(u64, u64)>), ElfError> {
    let io = |source| ElfError::Io { path: path.to_owned(), source };
    let junk = |e: elf::ParseError| ElfError::Junk { path: path.to_owned(), message: e.to_string() };
    let file = File::open(path).map_err(io)?;
    let has = file.metadata().map_err(io)?.len();
    let mut stream: ElfStream<AnyEndian, File> = ElfStream::open_stream(file).map_err(junk)?;
    // What is mapped beyond the end of the file kills the process that reads it: the loader does not look.
    let wants = stream.segments().iter().filter(|s| s.p_type == PT_LOAD);
    let wants = wants.map(|s| s.p_offset.saturating_add(s.p_filesz)).max().unwrap_or(0);
    if wants > has {
        return Err(ElfError::Short { path: path.to_owned(), has, wants });
    }
    let foreign = stream.ehdr.class != Class::ELF64 || stream.ehdr.e_machine != MACHINE;
    let mut out = Elf { foreign, processor: processor(stream.ehdr.e_machine), ..Elf::default() };
    let mut names = Vec::new();
    if let Some(table) = stream.dynamic().map_err(junk)? {
        for entry in table.iter() {
            if [DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH].contains(&entry.d_tag) {
                names.push((entry.d_tag, entry.d_val()));
            }
        }
    }
    let text = stream.section_header_by_name(".dynstr").map_err(junk)?.copied();
    if let Some(header) = text {
        let table = stream.section_data_as_strtab(&header).map_err(junk)?;
        for (tag, at) in names {
            let name = table.get(at as usize).map_err(junk)?.to_owned();
            match tag {
                DT_SONAME => out.soname = Some(name),
                DT_NEEDED => out.needs.push(name),
                _ => out.paths.extend(name.split(':').map(str::to_owned)),
            }
        }
    }
    out.constants = stream.section_header_by_name(".rodata").map_err(junk)?.map(|h| (h.sh_offset, h.sh_size));
    let mut places = Vec::new();
    for name in SECTIONS {
        let header = stream.section_header_by_name(name).map_err(junk)?;
        places.extend(header.map(|h| (h.sh_offset, h.sh_size)));
    }
    Ok((out, places))
}

fn processor(machine: u16) -> String {
    match machine {
        EM_X86_64 => "x86_64".to_owned(),
        EM_AARCH64 => "aarch64".to_owned(),
        EM_386 => "i386".to_owned(),
        EM_PPC64 => "ppc64".to_owned(),
        EM_RISCV => "riscv".to_owned(),
        other => format!("processor {other}"),
    }
}

/// Walks containers from `at` to `end`. What does not look like one ends the walk: what was read until then counts.
fn gpu_code(file: &mut (impl Read + Seek), mut at: u64, end: u64, out: &mut Elf) -> std::io::Result<()> {
    let mut entries = 0;
    let mut gap = 0;
    while at.saturating_add(CONTAINER) <= end && gap < MAX_GAP && entries < MAX_ENTRIES {
        entries += 1;
        let mut head = [0u8; CONTAINER as usize];
        file.seek(SeekFrom::Start(at))?;
        if file.read_exact(&mut head).is_err() {
            return Ok(());
        }
        if u32_at(&head, 0) != MAGIC {
            (at, gap) = (at + 8, gap + 8);
            continue;
        }
        gap = 0;
        let mut entry = at + u64::from(u16_at(&head, 6)).max(CONTAINER);
        let last = at.saturating_add(CONTAINER).saturating_add(u64_at(&head, 8)).min(end);
        while entry.saturating_add(ENTRY as u64) <= last && entries < MAX_ENTRIES {
            entries += 1;
            let mut head = [0u8; ENTRY];
            file.seek(SeekFrom::Start(entry))?;
            if file.read_exact(&mut head).is_err() {
                return Ok(());
            }
            let (header, size, capability) = (u32_at(&head, 4), u64_at(&head, 8), u32_at(&head, 28));
            // A header that leads nowhere is none.
            if header < ENTRY as u32 || !(20..1000).contains(&capability) {
                break;
            }
            let list = if u16_at(&head, 0) == KIND_PTX { &mut out.ptx } else { &mut out.code };
            if !list.contains(&capability) {
                list.push(capability);
            }
            entry = entry.saturating_add(u64::from(header)).saturating_add(size);
        }
        at = last.max(at + CONTAINER);
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A container with entries of (kind, compute capability, bytes of data).
    fn container(entries: &[(u16, u32, usize)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, capability, data) in entries {
            let mut head = vec![0u8; 64];
            head[..2].copy_from_slice(&kind.to_le_bytes());
            head[4..8].copy_from_slice(&64u32.to_le_bytes());
            head[8..16].copy_from_slice(&(*data as u64).to_le_bytes());
            head[28..32].copy_from_slice(&capability.to_le_bytes());
            body.extend(head);
            body.extend(vec![0xaa; *data]);
        }
        let mut out = MAGIC.to_le_bytes().to_vec();
        out.extend([1, 0, 16, 0]);
        out.extend((body.len() as u64).to_le_bytes());
        out.extend(body);
        out
    }

    fn walked(bytes: Vec<u8>) -> (Vec<u32>, Vec<u32>) {
        let mut out = Elf::default();
        let end = bytes.len() as u64;
        gpu_code(&mut Cursor::new(bytes), 0, end, &mut out).unwrap();
        (out.code, out.ptx)
    }

    #[test]
    fn every_container_is_walked_over_padding() {
        let mut bytes = container(&[(2, 80, 40), (2, 90, 8), (1, 90, 16)]);
        bytes.extend([0; 24]);
        bytes.extend(container(&[(2, 100, 0), (0x10, 120, 8)]));
        assert_eq!(walked(bytes), (vec![80, 90, 100, 120], vec![90]));
    }

    #[test]
    fn a_version_is_found_among_the_constants() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"....NCCL version 2.21.5+cuda, +cuda12.4\0").unwrap();
        let at = |constants| Elf { constants, ..Elf::default() }.number_after(&path, b"+cuda");
        assert_eq!((at(Some((4, 100))), at(Some((4, 10))), at(None)), (Some("12.4".into()), None, None));
    }

    #[test]
    fn a_library_of_this_machine_is_read() {
        let own = elf(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.needs.iter().any(|n| n.starts_with("libc.so")), "{own:?}");
        assert_eq!((own.foreign, own.soname, own.code), (false, None, vec![]));
        // The same file, said to be a SPARC's.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparc");
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        bytes[18] = 43;
        std::fs::write(&path, bytes).unwrap();
        assert!(elf(&path).unwrap().foreign);
        let text = elf(Path::new("/proc/self/status")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("/proc/self/status"), "{text}");
        assert!(matches!(elf(Path::new("/nowhere")), Err(ElfError::Io { .. })));
        let path = dir.path().join("cut");
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        assert!(matches!(head(&path), Err(ElfError::Short { .. } | ElfError::Junk { .. })), "{:?}", head(&path));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_ends(mut bytes in proptest::collection::vec(0u8..=255, 0..2000), at in 0usize..100) {
            let magic = container(&[(2, 90, 7)]);
            for (i, b) in magic.iter().enumerate() {
                if let Some(x) = bytes.get_mut(at * 8 + i) { *x = *b; }
            }
            walked(bytes.clone());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lib.so");
            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.extend(bytes);
            std::fs::write(&path, file).unwrap();
            let _ = elf(&path);
        }
    }
}
