//! Collectives, commands and errors, with threads as ranks.

use super::*;
use crate::rng::Rng;

/// Of all magnitudes, zeros of both signs included.
fn numbers(rank: usize, len: usize) -> Vec<f32> {
    let rng = Rng::new(5, "world");
    let scale = |i: usize| 10f64.powi((i * 7 + rank * 13) as i32 % 40 - 20);
    let number = |i: usize| if i % 11 == 3 { -0.0 } else { scale(i) * rng.normal_pair(rank as u64, i as u64)[0] };
    (0..len).map(|i| number(i) as f32).collect()
}

/// The all-reduce equals an f64 sum in rank order, rounded once, bit for bit; also with fewer elements than ranks, none, and several pieces.
#[test]
fn sums_are_those_of_f64_in_rank_order() {
    for size in [1, 2, 3, 5] {
        let several_pieces = if size == 3 { 600_001 } else { 0 };
        for len in [0, 1, 2, 4, 1000, 4097, several_pieces] {
            let all: Vec<Vec<f32>> = (0..size).map(|rank| numbers(rank, len)).collect();
            let sum = |i: usize| all.iter().fold(0.0, |sum, of| sum + f64::from(of[i])) as f32;
            let want: Vec<u32> = (0..len).map(|i| sum(i).to_bits()).collect();
            let got = World::on_threads(size, |world| world.all_reduce(numbers(world.rank(), len)).wait().unwrap()).unwrap();
            let bits = |sums: &Vec<f32>| sums.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(got.iter().all(|sums| bits(sums) == want), "{size} ranks, {len} numbers");
        }
    }
}

/// Collectives in flight complete in order.
#[test]
fn several_all_reduces_may_be_in_flight() {
    let got = World::on_threads(3, |world| {
        let pending: Vec<_> = (0..20u8).map(|i| world.all_reduce(vec![f32::from(i) + world.rank() as f32; 7])).collect();
        pending.into_iter().map(|p| p.wait().unwrap()[0]).collect::<Vec<_>>()
    })
    .unwrap();
    let want: Vec<f32> = (0..20u8).map(|i| 3.0 * f32::from(i) + 3.0).collect();
    assert_eq!(got, vec![want; 3]);
}

#[test]
fn gathers_broadcasts_and_statistics_reach_every_rank() {
    let got = World::on_threads(3, |world| {
        let own = vec![world.rank() as u8; world.rank() * 2];
        let all = world.all_gather(own).unwrap();
        let first = world.broadcast(if world.is_root() { vec![7, 8, 9] } else { Vec::new() }).unwrap();
        let mut sums = [0.1, -(world.rank() as f64)];
        world.all_reduce_f64(&mut sums).unwrap();
        (all, first, sums)
    })
    .unwrap();
    for (all, first, sums) in got {
        assert_eq!(all, [vec![], vec![1, 1], vec![2, 2, 2, 2]]);
        assert_eq!(first, [7, 8, 9]);
        assert_eq!(sums, [0.0 + 0.1 + 0.1 + 0.1, -3.0]);
    }
}

#[test]
fn ranks_execute_the_commands_of_rank_0() {
    let got = World::on_threads(3, |world| {
        world.start_following();
        if world.is_root() {
            for n in 0..5u64 {
                let task = world.broadcast_command("add", &(n, "x")).unwrap();
                let sum = world.all_reduce(vec![n as f32]).wait().unwrap();
                assert_eq!(sum, [3.0 * n as f32]);
                task.done();
            }
            world.end("completed");
            return "completed".to_owned();
        }
        loop {
            let next = world.next().unwrap();
            if next.kind == END {
                return next.read().unwrap();
            }
            let (n, x): (u64, String) = next.read().unwrap();
            assert_eq!((next.kind.as_str(), x.as_str()), ("add", "x"));
            world.all_reduce(vec![n as f32]).wait().unwrap();
        }
    })
    .unwrap();
    assert_eq!(got, ["completed"; 3]);
}

#[test]
fn a_setup_error_is_reported_once() {
    let outcome = |result: Result<()>| match result {
        Ok(()) => "ok".to_owned(),
        Err(error) if error.is::<OtherRankFailed>() => "other rank".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let of = |errors: [Option<&'static str>; 3]| {
        World::on_threads(3, |world| {
            outcome(world.check_all(errors[world.rank()].map_or(Ok(()), |text| Err(anyhow::anyhow!(text)))))
        })
        .unwrap()
    };
    assert_eq!(of([None, None, None]), ["ok"; 3]);
    assert_eq!(of([Some("no data"), Some("no data"), None]), ["no data", "other rank", "other rank"]);
    assert_eq!(of([None, None, Some("no GPU")]), ["other rank", "other rank", "rank 2 on threads: no GPU"]);
    assert_eq!(of([Some("no data"), None, Some("no GPU")]), ["no data", "other rank", "rank 2 on threads: no GPU"]);

    let agreed = World::on_threads(2, |world| {
        let version = if world.is_root() { "1" } else { "2" };
        outcome(world.ensure_equal(&[("settings", "same".into()), ("version", version.into())]))
    })
    .unwrap();
    assert_eq!(agreed, ["version: 2 on rank 1 on threads, 1 on rank 0 on threads; must be the same on all ranks", "other rank"]);
}

#[test]
fn shares_are_contiguous_and_differ_by_one_at_most() {
    for size in 1..9 {
        for count in 0..40 {
            let all: Vec<usize> = (0..size).flat_map(|rank| share(count, rank, size)).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let lens = (0..size).map(|rank| share(count, rank, size).len());
            assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
        }
    }
}

#[test]
fn a_single_process_communicates_with_none() {
    let world = World::solo();
    assert_eq!((world.rank(), world.size(), world.local_size(), world.is_root()), (0, 1, 1, true));
    assert_eq!(world.all_reduce(vec![1.5]).wait().unwrap(), [1.5]);
    assert_eq!(world.all_gather(vec![3]).unwrap(), [[3]]);
    world.broadcast_command("anything", &1).unwrap().done();
    assert!(world.ensure_equal(&[("version", "1".into())]).is_ok());
}
