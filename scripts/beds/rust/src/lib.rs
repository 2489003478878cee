//! Tests with threads of every kind, and with C that calls back; for rust.sh.

#[cfg(test)]
mod tests {
    use rayon::prelude::*;
    use rusqlite::Connection;
    use rusqlite::functions::FunctionFlags;

    const NUMBERS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)";

    #[test]
    fn a_c_library_calls_back() {
        let connection = Connection::open_in_memory().unwrap();
        let twice = |context: &rusqlite::functions::Context<'_>| Ok(context.get::<i64>(0)? * 2);
        connection.create_scalar_function("twice", 1, FunctionFlags::SQLITE_UTF8, twice).unwrap();
        connection.create_collation("backwards", |a, b| b.cmp(a)).unwrap();
        let sum: i64 =
            connection.query_row(&format!("{NUMBERS} select sum(twice(i)) from n"), [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 25_005_000);
        let last = format!("{NUMBERS} select max(cast(i as text) collate backwards) from n");
        let last: String = connection.query_row(&last, [], |row| row.get(0)).unwrap();
        assert_eq!(last, "1");
    }

    #[test]
    fn a_panic_in_a_callback_is_an_error() {
        let connection = Connection::open_in_memory().unwrap();
        let panics = |_: &rusqlite::functions::Context<'_>| -> rusqlite::Result<i64> { panic!("on purpose") };
        connection.create_scalar_function("panics", 0, FunctionFlags::SQLITE_UTF8, panics).unwrap();
        assert!(connection.query_row("select panics()", [], |row| row.get::<_, i64>(0)).is_err());
    }

    #[test]
    fn pools_and_channels() {
        let sum: u64 = (0..100_000u64).into_par_iter().map(|n| n % 7).sum();
        assert_eq!(sum, (0..100_000u64).map(|n| n % 7).sum());
        let (sender, receiver) = crossbeam::channel::bounded(3);
        crossbeam::scope(|scope| {
            for k in 0..4 {
                let sender = sender.clone();
                scope.spawn(move |_| (0..1000).for_each(|n| sender.send(n * k).unwrap()));
            }
            drop(sender);
            assert_eq!(receiver.iter().count(), 4000);
        })
        .unwrap();
    }

    #[test]
    #[should_panic]
    fn a_thread_panics() {
        std::thread::spawn(|| panic!("on purpose")).join().unwrap();
    }
}
