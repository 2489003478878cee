//! Which module was mapped where, and when.

use traceshim_ring::read::Module;

/// How many different places of modules are looked at, from an address
/// downwards: a program has one or two that reach so far, whatever its ring says.
const PLACES: usize = 64;

/// How many modules altogether.
const MODULES: usize = 256;

/// Modules in the order of their places, and at one place in that of their times.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    order: Vec<u32>,
}

impl Mapped {
    pub(super) fn new(modules: &[Module]) -> Mapped {
        let mut order: Vec<u32> = (0..modules.len() as u32).collect();
        order.sort_by_key(|&m| (modules[m as usize].start, modules[m as usize].load_ticks));
        Mapped { order }
    }

    /// The place in `modules` of the one that was mapped at `address` at the
    /// time `ticks`.
    pub(super) fn at(&self, modules: &[Module], address: u64, ticks: u64) -> Option<u32> {
        let of = |m: u32| &modules[m as usize];
        let mapped =
            |m: &u32| address < of(*m).end && (of(*m).unload_ticks == 0 || ticks < of(*m).unload_ticks);
        // Of those at one place only the last that came by then can be it.
        let last = |place: &[u32]| {
            let come = place.partition_point(|&m| of(m).load_ticks <= ticks);
            place[..come].last().copied().filter(mapped)
        };
        self.places(modules, address).find_map(last).or_else(|| {
            // The shim may notice a module only after its first event. Where no
            // other was ever there, and it hadn't gone yet, it is the one.
            let covers = |&m: &u32| address < of(m).end;
            let all = self.places(modules, address).flatten().take(MODULES);
            let mut ever = all.copied().filter(covers);
            let only = ever.next().filter(|_| ever.next().is_none())?;
            (ticks < of(only).load_ticks).then_some(only)
        })
    }

    /// The modules that begin at or below `address`, by place, downwards.
    fn places<'a>(&'a self, modules: &'a [Module], address: u64) -> impl Iterator<Item = &'a [u32]> {
        let start = |m: u32| modules[m as usize].start;
        let mut rest = &self.order[..self.order.partition_point(|&m| start(m) <= address)];
        let next = move || {
            let &last = rest.last()?;
            let (below, place) = rest.split_at(rest.partition_point(|&m| start(m) < start(last)));
            rest = below;
            Some(place)
        };
        std::iter::from_fn(next).take(PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(start: u64, end: u64, load_ticks: u64, unload_ticks: u64) -> Module {
        Module {
            id: 0,
            start,
            end,
            bias: start,
            load_ticks,
            unload_ticks,
            is_host: false,
            build_id: Vec::new(),
            path: Vec::new(),
            file: Default::default(),
        }
    }

    #[test]
    fn a_module_that_comes_and_goes_is_there_in_between() {
        // A thousand times, by turns with one that begins elsewhere and covers the same addresses.
        let modules: Vec<Module> = (0..2000)
            .map(|n| {
                module(0x1000 - 0x100 * (n % 2), 0x2000, 10 * n + 1, if n == 1999 { 0 } else { 10 * n + 6 })
            })
            .collect();
        let mapped = Mapped::new(&modules);
        for n in 0..2000 {
            assert_eq!(mapped.at(&modules, 0x1800, 10 * n + 5), Some(n as u32));
            let gone = if n == 1999 { Some(1999) } else { None };
            assert_eq!(mapped.at(&modules, 0x1800, 10 * n + 7), gone);
        }
        assert_eq!(mapped.at(&modules, 0x2000, 5), None);
        assert_eq!(mapped.at(&modules, 0x8ff, 5), None);
    }

    #[test]
    fn the_only_one_that_ever_was_there_was_there_before_it_was_noticed() {
        let modules =
            [module(0x1000, 0x2000, 50, 60), module(0x3000, 0x4000, 50, 0), module(0x3000, 0x3800, 10, 20)];
        let mapped = Mapped::new(&modules);
        assert_eq!(mapped.at(&modules, 0x1800, 40), Some(0));
        assert_eq!(mapped.at(&modules, 0x1800, 70), None);
        assert_eq!(mapped.at(&modules, 0x3400, 40), None);
        assert_eq!(mapped.at(&modules, 0x3c00, 40), Some(1));
    }
}
