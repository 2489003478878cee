//! Events, as everything behind the decoder sees them.

use traceshim_ring::layout::Ref;
use traceshim_ring::record::{Origin, StackRef};

/// Something that happened on a thread.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub(crate) ts_ns: u64,
    /// The same moment in the process's ticks, in which modules come and go.
    pub(crate) ticks: u64,
    /// The thread's place in [`super::Process::threads`].
    pub(crate) thread: u32,
    /// What happened.
    pub(crate) body: Body,
}

/// What happened. References are into the tables of the event's process;
/// `child`, `target` and `creator` are serial numbers of threads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    ThreadBirth {
        origin: Origin,
        child: u32,
        start_routine: u64,
        stack: StackRef,
    },
    ThreadStart {
        origin: Origin,
        name: Ref,
        creator: u32,
        start_routine: u64,
    },
    ThreadExit {
        unwound: bool,
    },
    ThreadName {
        target: u32,
        name: Ref,
    },
    CallbackEnter {
        hook: u16,
        depth: u16,
        stack: StackRef,
    },
    CallbackExit {
        hook: u16,
        duration_ns: Option<u64>,
        unwound: bool,
    },
    Log {
        stack: StackRef,
        category: Ref,
        text: Box<[u8]>,
    },
    RegionBegin {
        stack: StackRef,
        name: Ref,
    },
    RegionEnd {
        stack: StackRef,
        name: Ref,
    },
    TaskBegin {
        stack: StackRef,
        name: Ref,
        id: u64,
        parent: u64,
    },
    TaskEnd {
        stack: StackRef,
        id: u64,
    },
    ModuleLoad {
        module: Ref,
    },
    ModuleUnload {
        module: Ref,
    },
    Fork {
        child_pid: u32,
    },
    Exec {
        path: Ref,
    },
    /// `tid` is kept here since a thread may have lost all that it recorded.
    Lost {
        count: u64,
        from_ns: u64,
        to_ns: u64,
        tid: u32,
    },
    /// Of a kind that a later version records.
    Unknown {
        kind: u8,
    },
}

macro_rules! kinds {
    ($($kind:ident $name:literal;)*) => {
        /// The kinds of events, by the names of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The name in the contract.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }

        impl Body {
            /// What kind of event this is.
            pub(crate) const fn kind(&self) -> Kind {
                match self { $(Body::$kind { .. } => Kind::$kind),* }
            }
        }
    };
}

kinds! {
    ThreadBirth "thread_birth";
    ThreadStart "thread_start";
    ThreadExit "thread_exit";
    ThreadName "thread_name";
    CallbackEnter "callback_enter";
    CallbackExit "callback_exit";
    Log "log";
    RegionBegin "region_begin";
    RegionEnd "region_end";
    TaskBegin "task_begin";
    TaskEnd "task_end";
    ModuleLoad "module_load";
    ModuleUnload "module_unload";
    Fork "fork";
    Exec "exec";
    Lost "lost";
    Unknown "unknown";
}

impl Body {
    /// The stack that was captured with the event, where it has one.
    pub(crate) fn stack(&self) -> Option<StackRef> {
        let stack = match *self {
            Body::ThreadBirth { stack, .. }
            | Body::CallbackEnter { stack, .. }
            | Body::Log { stack, .. }
            | Body::RegionBegin { stack, .. }
            | Body::RegionEnd { stack, .. }
            | Body::TaskBegin { stack, .. }
            | Body::TaskEnd { stack, .. } => stack,
            Body::ThreadStart { .. }
            | Body::ThreadExit { .. }
            | Body::ThreadName { .. }
            | Body::CallbackExit { .. }
            | Body::ModuleLoad { .. }
            | Body::ModuleUnload { .. }
            | Body::Fork { .. }
            | Body::Exec { .. }
            | Body::Lost { .. }
            | Body::Unknown { .. } => return None,
        };
        (!stack.is_none()).then_some(stack)
    }
}
