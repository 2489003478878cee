//! `docs/ring-format.md` says what the code does.
#![cfg(not(loom))]

use traceshim_ring::layout::{
    CHUNK_COMMITTED, CHUNK_RETURNED, CHUNK_STATE, HOOK_WORDS, LEDGER_WORDS, MODULE_WORDS, NODE_WORDS, Table,
    header, tag,
};
use traceshim_ring::record::kind;
use traceshim_ring::stack::StackStatus;

const DOC: &str = include_str!("../../docs/ring-format.md");

/// The rows of the table between `<!-- name -->` and `<!-- /name -->`.
fn rows(name: &str) -> Vec<Vec<String>> {
    let start = DOC.find(&format!("<!-- {name} -->")).expect(name);
    let end = DOC.find(&format!("<!-- /{name} -->")).expect(name);
    DOC[start..end]
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.replace("\\|", "/").trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect()
        })
        .collect()
}

/// The first two columns: a number and a name.
fn numbers(name: &str) -> Vec<(usize, String)> {
    rows(name).iter().map(|row| (row[0].parse().expect("a number"), row[1].clone())).collect()
}

macro_rules! named {
    ($module:ident: $($name:ident)*) => { [$(($module::$name as usize, stringify!($name).to_owned())),*] };
}

#[test]
fn chunks_and_tags() {
    let names = [(CHUNK_COMMITTED, "COMMITTED"), (CHUNK_STATE, "STATE"), (CHUNK_RETURNED, "RETURNED")];
    let expected = names.map(|(at, name)| (at, name.to_owned()));
    assert_eq!(numbers("chunk"), expected);
    assert_eq!(numbers("tags"), named!(tag: FREE OPEN CLOSED CLAIMED TABLE));
}

#[test]
fn the_header() {
    let expected = named!(header: MAGIC VERSION FILE_BYTES CHUNKS PIDS FLAGS UUID START_MONO_NS START_REAL_NS
        EXE ENDED END_TICKS STACK_DEPTH CLAIM_CURSOR NEXT_SEQ NEXT_UID FREED_EPOCH FULL_EPOCH HIGH_WATER
        TABLE_CHUNKS TABLE_CURSOR REENTERED TABLE_FULL OTHER_LOSSES PARTIAL SYNCS);
    assert_eq!(numbers("header"), expected);
}

#[test]
fn tables() {
    let sizes = [None, Some(NODE_WORDS), Some(MODULE_WORDS), Some(HOOK_WORDS), Some(LEDGER_WORDS)];
    let rows = rows("tables");
    assert_eq!(rows.len(), Table::ALL.len());
    for ((row, table), size) in rows.iter().zip(Table::ALL).zip(sizes) {
        assert_eq!((row[0].parse(), &row[1]), (Ok(table as usize), &format!("{table:?}")));
        assert_eq!(row[2].parse().ok(), size);
    }
}

#[test]
fn statuses() {
    let expected: Vec<_> =
        StackStatus::ALL.iter().map(|s| (usize::from(s.code()), s.text().to_owned())).collect();
    assert_eq!(numbers("statuses"), expected);
}

#[test]
fn records() {
    let expected = named!(kind: OWNER TIME CALLBACK_ENTER CALLBACK_EXIT THREAD_BIRTH THREAD_START THREAD_EXIT
        THREAD_NAME LOG TEXT REGION_BEGIN REGION_END TASK_BEGIN TASK_END MODULE_LOAD MODULE_UNLOAD FORK EXEC);
    assert_eq!(numbers("records"), expected);
}
