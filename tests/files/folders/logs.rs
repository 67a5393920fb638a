//! The lock, the event log, and TensorBoard files.

use super::*;
use lehr::vfs::RealFs;

fn step(n: u64) -> Event {
    Event::Step(Step { step: n, loss: f64::NAN, ..Step::default() })
}

fn steps(events: &[Event]) -> Vec<u64> {
    events.iter().map(|e| if let Event::Step(s) = e { s.step } else { panic!("{e:?}") }).collect()
}

#[test]
fn one_trainer_per_run() {
    let dir = temp();
    let path = dir.path().join("run");
    let folder = RunFolder::create(&RealFs, &path, "a = 1\n").unwrap();
    assert!(RunLock::is_held(&path));
    for error in [RunFolder::open_for_resume(&RealFs, &path).err(), RunLock::acquire(&RealFs, &path).err()] {
        let text = format!("{:#}", error.unwrap());
        assert!(text.contains(&format!("process {}", std::process::id())) && text.contains("since 20"), "{text}");
        assert!(text.contains(&lehr::run_folder::host_name()), "{text}");
    }
    drop(folder);
    assert!(!RunLock::is_held(&path));
    let text = format!("{:#}", RunFolder::create(&RealFs, &path, "a = 2\n").unwrap_err());
    assert!(text.contains("--resume"), "{text}");
    // A stale lock file with nonsense in it is no hindrance.
    fs::write(path.join("lock"), "\u{1b}[2J nonsense").unwrap();
    let (folder, tidied) = RunFolder::open_for_resume(&RealFs, &path).unwrap();
    assert!(tidied.is_empty());
    assert_eq!(fs::read_to_string(folder.config()).unwrap(), "a = 1\n");
}

#[test]
fn one_of_many_concurrent_starts_wins() {
    let dir = temp();
    let path = dir.path().join("runs/a");
    let results: Vec<_> = std::thread::scope(|s| {
        let start = || RunFolder::create(&RealFs, &path, "a = 1\n").map_err(|e| format!("{e:#}"));
        let threads: Vec<_> = (0..32).map(|_| s.spawn(start)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for text in results.iter().filter_map(|r| r.as_ref().err()) {
        assert!(text.contains("in use by") || text.contains("--resume"), "{text}");
    }
}

#[test]
fn bad_run_folders_are_refused_by_name() {
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/thesis\n.txt"), "").unwrap();
    for (path, part) in [(at("file"), "is a file"), (at("file/run"), "file: is not a folder"), (at("full"), "thesis\\n.txt")] {
        let text = format!("{:#}", RunFolder::create(&RealFs, &path, "").unwrap_err());
        assert!(text.contains(part) && !text.chars().any(char::is_control), "'{part}' is not in: {text}");
    }
    let run = run_with(&[100]);
    let checkpoint = checkpoints::folder(run.path()).join("step-00000100");
    for (path, part) in [(at("none"), "no such run"), (at("full"), "no config.toml"), (checkpoint, "--init")] {
        let text = format!("{:#}", RunFolder::open_for_resume(&RealFs, &path).unwrap_err());
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    #[cfg(unix)]
    {
        fs::write(at("outside"), "keep me").unwrap();
        fs::remove_file(run.path().join("lock")).ok();
        std::os::unix::fs::symlink(at("outside"), run.path().join("lock")).unwrap();
        assert!(format!("{:#}", RunLock::acquire(&RealFs, run.path()).unwrap_err()).contains("plain file"));
        assert_eq!(fs::read_to_string(at("outside")).unwrap(), "keep me");
    }
}

#[test]
fn the_event_log_is_cut_at_the_checkpoint_and_followed() {
    let dir = temp();
    let path = dir.path().join("events.jsonl");
    let mut reader = EventReader::new(&path);
    assert_eq!(reader.poll(&RealFs).unwrap(), Default::default());
    let mut log = EventLog::create(&RealFs, &path).unwrap();
    (1..=5).for_each(|n| log.append(&step(n)).unwrap());
    let offset = log.offset();
    log.append(&step(6)).unwrap();
    log.sync().unwrap();
    assert_eq!(log.offset(), fs::metadata(&path).unwrap().len());
    assert_eq!(steps(&reader.poll(&RealFs).unwrap().events), [1, 2, 3, 4, 5, 6]);
    // Killed in the middle of a line: it waits, and is never seen.
    let mut raw = fs::OpenOptions::new().append(true).open(&path).unwrap();
    raw.write_all(b"{\"event\":\"Step\",\"st").unwrap();
    assert!(reader.poll(&RealFs).unwrap().events.is_empty());
    drop(log);
    let mut log = EventLog::resume(&RealFs, &path, offset).unwrap();
    log.append(&step(60)).unwrap();
    log.append(&step(70)).unwrap();
    let poll = reader.poll(&RealFs).unwrap();
    assert!(poll.reset);
    assert_eq!(steps(&poll.events), [1, 2, 3, 4, 5, 60, 70]);
    log.append(&step(80)).unwrap();
    let poll = reader.poll(&RealFs).unwrap();
    assert_eq!((poll.reset, steps(&poll.events)), (false, vec![80]));
    assert_eq!(steps(&read_all(&RealFs, &path).unwrap().0), [1, 2, 3, 4, 5, 60, 70, 80]);
}

#[test]
fn an_offset_in_the_middle_of_a_line_costs_only_that_line() {
    let dir = temp();
    let path = dir.path().join("events.jsonl");
    let mut log = EventLog::create(&RealFs, &path).unwrap();
    (1..=3).for_each(|n| log.append(&step(n)).unwrap());
    let whole = fs::read(&path).unwrap();
    for offset in 0..=whole.len() as u64 + 5 {
        fs::write(&path, &whole).unwrap();
        EventLog::resume(&RealFs, &path, offset).unwrap().append(&step(9)).unwrap();
        let (events, bad) = read_all(&RealFs, &path).unwrap();
        assert_eq!(*steps(&events).last().unwrap(), 9, "{offset}");
        assert!(bad <= 1 && events.len() + bad >= 1);
    }
}

#[test]
fn malformed_lines_are_skipped() {
    let dir = temp();
    let path = dir.path().join("events.jsonl");
    let good = serde_json::to_string(&step(1)).unwrap();
    let mut content = format!("{good}\r\n\n\u{feff}x\n{{\"event\":\"Unheard\"}}\n\0\0\n{good}\n").into_bytes();
    content.extend([0xff, 0xfe, b'\n']);
    content.extend(vec![b'a'; 9 << 20]);
    content.extend(format!("\n{good}\n{good}").bytes());
    fs::write(&path, content).unwrap();
    let (events, bad) = read_all(&RealFs, &path).unwrap();
    assert_eq!((steps(&events), bad), (vec![1, 1, 1], 5));
}

/// CRC-32C a bit at a time, and the frames and fields of an event file, by the specification alone.
mod decode {
    fn crc(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
        })
    }

    fn masked(data: &[u8]) -> [u8; 4] {
        let crc = crc(data);
        crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    }

    pub fn records(mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let length = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
            assert_eq!(data[8..12], masked(&data[..8]));
            let body = &data[12..12 + length];
            assert_eq!(data[12 + length..16 + length], masked(body));
            out.push(body.to_vec());
            data = &data[16 + length..];
        }
        out
    }

    fn varint(data: &mut &[u8]) -> u64 {
        let (mut out, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            out |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return out;
            }
        }
    }

    /// (field number, wire type, bytes) of a message.
    pub fn fields(mut data: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let length = match key & 7 {
                0 => {
                    out.push((key >> 3, 0, varint(&mut data).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut data) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, key & 7, data[..length].to_vec()));
            data = &data[length..];
        }
        out
    }
}

#[test]
fn tensorboard_files_decode() {
    let dir = temp();
    let mut board = TensorBoard::create(&RealFs, dir.path(), Some(300)).unwrap();
    let other = TensorBoard::create(&RealFs, dir.path(), None).unwrap();
    assert_ne!(board.path(), other.path());
    board.event(12.5, &Event::Step(Step { step: 301, loss: 2.5, grad_norm: f64::NAN, ..Step::default() })).unwrap();
    board.event(13.0, &Event::Paused { step: 301 }).unwrap();
    let name = board.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("events.out.tfevents.1"), "{name}");
    let records = decode::records(&fs::read(board.path()).unwrap());
    assert_eq!(records.len(), 3);
    let first = decode::fields(&records[0]);
    assert_eq!(first[2], (3, 2, b"brain.Event:2".to_vec()));
    let restart = decode::fields(&records[1]);
    assert_eq!((restart[1].2[..2].to_vec(), restart[2].clone()), (vec![45, 1], (7, 2, vec![8, 1])));
    let event = decode::fields(&records[2]);
    assert_eq!(event[0], (1, 1, 12.5f64.to_le_bytes().to_vec()));
    assert_eq!(event[1], (2, 0, 301u64.to_le_bytes().to_vec()));
    assert_eq!((event[2].0, event[2].1), (5, 2));
    let values = decode::fields(&event[2].2);
    assert_eq!(values.len(), 9);
    let loss = decode::fields(&values[0].2);
    assert_eq!(loss, [(1, 2, b"train/loss".to_vec()), (2, 5, 2.5f32.to_le_bytes().to_vec())]);
    let grad_norm = decode::fields(&values[1].2);
    assert!(f32::from_le_bytes(grad_norm[1].2[..].try_into().unwrap()).is_nan());
}
