//! Functions, inlined calls and lines from DWARF.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::gimli::{self, Reader as _, RunTimeEndian};
use addr2line::{Context, LookupContinuation, LookupResult, SplitDwarfLoad};
use object::{CompressionFormat, Object, ObjectSection};

use super::metered::{Meter, Metered};
use super::{Elf, Site, demangle, file};

/// More than any section of a real program expands to; a section that claims
/// more is treated as missing.
const SECTION_CAP_BYTES: u64 = 4 << 30;
/// Debug information packs to a tenth. A small section may be all zeros; a large
/// one that packs better than this was made to fill the memory.
const RATIO_CAP: u64 = 64;
const SMALL_BYTES: u64 = 1 << 20;

/// The debug information of one module.
pub(crate) struct Dwarf {
    /// `None` where it can't be read.
    context: Option<Context<Metered>>,
    package: Option<gimli::DwarfPackage<Metered>>,
    meter: &'static Meter,
}

impl Dwarf {
    /// What `elf`, found at `path`, has; `supplement` is its dwz file.
    pub(crate) fn load(elf: &Elf, path: &Path, supplement: Option<&Elf>) -> Option<Dwarf> {
        let meter = Meter::new();
        let mut dwarf = gimli::Dwarf::load(|id| section(elf, Some(id.name()), meter)).ok()?;
        if let Some(supplement) = supplement {
            dwarf.load_sup(|id| section(supplement, Some(id.name()), meter)).ok()?;
        }
        let context = Context::from_dwarf(dwarf).ok();
        Some(Dwarf { context, package: package(path, meter), meter })
    }

    /// Whether following it took more than any honest file needs.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.meter.is_exhausted()
    }

    /// The frames at `address`, innermost first; empty where DWARF says nothing.
    pub(crate) fn find(&self, address: u64, demangled: bool) -> Vec<Site> {
        let Some(context) = &self.context else { return Vec::new() };
        self.meter.begin();
        let mut lookup = context.find_frames(address);
        let frames = loop {
            lookup = match lookup {
                LookupResult::Output(output) => break output,
                LookupResult::Load { load, continuation } => continuation.resume(self.load_split(load)),
            };
        };
        let mut sites = Vec::new();
        let Ok(mut frames) = frames else { return sites };
        while let Ok(Some(frame)) = frames.next() {
            let raw = frame.function.as_ref().and_then(|f| f.name.to_slice().ok());
            let location = frame.location.as_ref();
            sites.push(Site {
                function: raw.map(|raw| demangle::name(&raw, demangled)),
                file: location.and_then(|l| l.file).map(str::to_owned),
                line: location.and_then(|l| l.line).filter(|&line| line != 0),
                inlined: true,
            });
        }
        if let Some(outermost) = sites.last_mut() {
            outermost.inlined = false;
        }
        sites
    }

    fn load_split(&self, load: SplitDwarfLoad<Metered>) -> Option<Arc<gimli::Dwarf<Metered>>> {
        if let Some(package) = &self.package
            && let Ok(Some(unit)) = package.find_cu(load.dwo_id, &load.parent)
        {
            return Some(Arc::new(unit));
        }
        let mut path = PathBuf::new();
        for part in [load.comp_dir, load.path].into_iter().flatten() {
            path.push(OsString::from_vec(part.to_slice().ok()?.into_owned()));
        }
        let elf = Elf::parse(file::contents(&path)?).ok()?;
        let mut dwarf = gimli::Dwarf::load(|id| section(&elf, id.dwo_name(), self.meter)).ok()?;
        let header = dwarf.units().next().ok()??;
        if dwarf.unit(header).ok()?.dwo_id != Some(load.dwo_id) {
            return None;
        }
        dwarf.make_dwo(&load.parent);
        Some(Arc::new(dwarf))
    }
}

/// The package of split units beside the module: `app.dwp`.
fn package(path: &Path, meter: &'static Meter) -> Option<gimli::DwarfPackage<Metered>> {
    let mut package = path.as_os_str().to_owned();
    package.push(".dwp");
    let elf = Elf::parse(file::contents(Path::new(&package))?).ok()?;
    let empty = Metered::section(&[], RunTimeEndian::Little, meter);
    gimli::DwarfPackage::load(|id| section(&elf, id.dwo_name(), meter), empty).ok()
}

/// A section's content, expanded; empty where it is missing or damaged.
fn section(elf: &Elf, name: Option<&str>, meter: &'static Meter) -> Result<Metered, gimli::Error> {
    let endian = if elf.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let content = name.and_then(|name| elf.section_by_name(name)).and_then(|s| expand(&s));
    Ok(Metered::section(content.unwrap_or_default(), endian, meter))
}

fn expand(section: &impl ObjectSection<'static>) -> Option<&'static [u8]> {
    let data = section.compressed_data().ok()?;
    if data.format == CompressionFormat::None {
        return Some(data.data);
    }
    let size = data.uncompressed_size;
    let plausible = (data.data.len() as u64).saturating_mul(RATIO_CAP).max(SMALL_BYTES);
    if size > SECTION_CAP_BYTES.min(plausible) {
        return None;
    }
    Some(data.decompress().ok()?.into_owned().leak())
}
