//! How the bytes go round.

use crate::probe::ProbeError;
use crate::probe::collective::cost::{Algorithm, CHAIN_PIECE};
use crate::probe::collective::mesh::Mesh;

/// f32 <-> bytes as the machine holds them: both ends are of one architecture, which the version check of a cluster
/// run will hold.
fn bytes(data: &[f32]) -> &[u8] {
    pulp::bytemuck::cast_slice(data)
}

fn bytes_mut(data: &mut [f32]) -> &mut [u8] {
    pulp::bytemuck::cast_slice_mut(data)
}

/// `out[i] = a[i] + b[i]`
fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    pulp::Arch::new().dispatch(|| {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = *a + *b;
        }
    });
}

fn add_to(out: &mut [f32], b: &[f32]) {
    pulp::Arch::new().dispatch(|| {
        for (o, b) in out.iter_mut().zip(b) {
            *o += *b;
        }
    });
}

/// The bounds of part `i` of `n` of `len` elements; parts differ by at most one.
pub fn part(len: usize, n: usize, i: usize) -> std::ops::Range<usize> {
    let (base, extra) = (len / n, len % n);
    let start = i * base + i.min(extra);
    start..start + base + usize::from(i < extra)
}

/// Receives elements and adds them to `mine` into `out`, while `send` goes out; chunk by chunk, so that what came is
/// still in the cache when it is added.
fn exchange_add(
    mesh: &mut Mesh,
    (to, send): (usize, &[f32]),
    from: usize,
    mine: &[f32],
    out: &mut [f32],
) -> Result<(), ProbeError> {
    let mut inbox = mesh.take_inbox();
    let mut at = 0;
    let mut done = Ok(());
    while done.is_ok() && at < send.len().max(mine.len()) {
        let range = |len: usize| at.min(len)..(at + inbox.len()).min(len);
        let (outgoing, incoming) = (range(send.len()), range(mine.len()));
        let got = &mut inbox[..incoming.len()];
        done = mesh.exchange(to, bytes(&send[outgoing]), from, bytes_mut(got));
        add(&mine[incoming.clone()], got, &mut out[incoming]);
        at += inbox.len();
    }
    mesh.give_inbox(inbox);
    done
}

/// `out = sum over ranks of data`. Both of the same length on every rank.
pub fn all_reduce(mesh: &mut Mesh, algorithm: Algorithm, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    match algorithm {
        Algorithm::RecursiveDoubling => recursive_doubling(mesh, data, out),
        _ => ring_all_reduce(mesh, data, out),
    }
}

fn recursive_doubling(mesh: &mut Mesh, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, ranks) = (mesh.rank, mesh.ranks);
    let base = 1 << ranks.ilog2();
    let surplus = ranks - base;
    // Small messages come on the stack: an allocation would cost a noticeable part of them.
    let mut small = [0.0f32; 256];
    let mut large;
    let inbox: &mut [f32] = if data.len() <= small.len() {
        &mut small[..data.len()]
    } else {
        large = vec![0.0; data.len()];
        &mut large
    };
    out.copy_from_slice(data);
    // Ranks from `base` on hand their data to a partner below and get the result in the end.
    if rank >= base {
        let partner = rank - base;
        mesh.exchange(partner, bytes(out), partner, &mut [])?;
        return mesh.exchange(partner, &[], partner, bytes_mut(out));
    }
    if rank < surplus {
        mesh.exchange(rank + base, &[], rank + base, bytes_mut(inbox))?;
        add_to(out, inbox);
    }
    let mut distance = 1;
    while distance < base {
        let partner = rank ^ distance;
        mesh.exchange(partner, bytes(out), partner, bytes_mut(inbox))?;
        add_to(out, inbox);
        distance *= 2;
    }
    if rank < surplus {
        mesh.exchange(rank + base, bytes(out), rank + base, &mut [])?;
    }
    Ok(())
}

fn ring_all_reduce(mesh: &mut Mesh, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, n, len) = (mesh.rank, mesh.ranks, data.len());
    let (next, previous) = ((rank + 1) % n, (rank + n - 1) % n);
    for step in 0..n - 1 {
        let (send, receive) = (part(len, n, (rank + n - step) % n), part(len, n, (rank + 2 * n - step - 1) % n));
        let mine = &data[receive.clone()];
        // What this rank sends on in a round is what it added up in the round before.
        let (added, target) = two_parts(out, send.clone(), receive);
        let outgoing = if step == 0 { &data[send] } else { added };
        exchange_add(mesh, (next, outgoing), previous, mine, target)?;
    }
    let own = (rank + 1) % n;
    ring_gather(mesh, out, own)
}

/// All-gather round the ring of parts that lie in place; this rank begins with part `own`.
fn ring_gather(mesh: &mut Mesh, out: &mut [f32], own: usize) -> Result<(), ProbeError> {
    let (rank, n, len) = (mesh.rank, mesh.ranks, out.len());
    let (next, previous) = ((rank + 1) % n, (rank + n - 1) % n);
    for step in 0..n - 1 {
        let send = part(len, n, (own + n - step) % n);
        let receive = part(len, n, (own + 2 * n - step - 1) % n);
        let (outgoing, incoming) = two_parts(out, send, receive);
        mesh.exchange(next, bytes(outgoing), previous, bytes_mut(incoming))?;
    }
    Ok(())
}

/// Two parts of one slice that do not overlap: the first to read, the second to write.
fn two_parts(data: &mut [f32], a: std::ops::Range<usize>, b: std::ops::Range<usize>) -> (&[f32], &mut [f32]) {
    if a.start < b.start {
        let (low, high) = data.split_at_mut(b.start);
        (&low[a], &mut high[..b.len()])
    } else {
        let (low, high) = data.split_at_mut(a.start);
        (&high[..a.len()], &mut low[b])
    }
}

/// `out` = the parts of all ranks in rank order; `out.len() = n * mine.len()`.
pub fn all_gather(mesh: &mut Mesh, mine: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let own = mesh.rank;
    let range = part(out.len(), mesh.ranks, own);
    out[range].copy_from_slice(mine);
    ring_gather(mesh, out, own)
}

/// `out` = this rank's part of the sum over ranks of `data`; `data.len() = n * out.len()`.
pub fn reduce_scatter(mesh: &mut Mesh, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, n, len) = (mesh.rank, mesh.ranks, data.len());
    let (next, previous) = ((rank + 1) % n, (rank + n - 1) % n);
    let mut sum = vec![0.0f32; len.div_ceil(n)];
    for step in 0..n - 1 {
        // One place further on than in the all-reduce, so that the last part to be complete is this rank's own.
        let (send, receive) =
            (part(len, n, (rank + 2 * n - step - 1) % n), part(len, n, (rank + 2 * n - step - 2) % n));
        let outgoing = if step == 0 { &data[send] } else { &sum[..send.len()] };
        exchange_add(mesh, (next, outgoing), previous, &data[receive], out)?;
        if step + 1 < n - 1 {
            sum[..out.len()].copy_from_slice(out);
        }
    }
    Ok(())
}

/// Rank 0's `data` on every rank.
pub fn broadcast(mesh: &mut Mesh, algorithm: Algorithm, data: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, n) = (mesh.rank, mesh.ranks);
    if algorithm == Algorithm::Tree {
        let mut distance = n.next_power_of_two() / 2;
        while distance > 0 {
            if rank % (2 * distance) == 0 && rank + distance < n {
                mesh.exchange(rank + distance, bytes(data), rank + distance, &mut [])?;
            } else if rank % (2 * distance) == distance {
                mesh.exchange(rank - distance, &[], rank - distance, bytes_mut(data))?;
            }
            distance /= 2;
        }
        return Ok(());
    }
    let buffer = bytes_mut(data);
    let pieces = buffer.len().div_ceil(CHAIN_PIECE);
    // While piece i comes in, piece i - 1 goes out.
    for i in 0..=pieces {
        let (done, rest) = buffer.split_at_mut((i * CHAIN_PIECE).min(buffer.len()));
        let incoming: &mut [u8] = if rank == 0 {
            &mut []
        } else {
            let n = rest.len().min(CHAIN_PIECE);
            &mut rest[..n]
        };
        let outgoing: &[u8] = if rank + 1 == n || i == 0 { &[] } else { &done[(i - 1) * CHAIN_PIECE..] };
        let (to, from) = ((rank + 1) % n, (rank + n - 1) % n);
        mesh.exchange(to, outgoing, from, incoming)?;
    }
    Ok(())
}

/// `data` goes to the next rank; `out` holds that of the one before.
pub fn send_receive(mesh: &mut Mesh, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, n) = (mesh.rank, mesh.ranks);
    mesh.exchange((rank + 1) % n, bytes(data), (rank + n - 1) % n, bytes_mut(out))
}

/// Part j of `data` goes to rank j; `out` holds part `rank` of every rank, in rank order.
pub fn all_to_all(mesh: &mut Mesh, data: &[f32], out: &mut [f32]) -> Result<(), ProbeError> {
    let (rank, n) = (mesh.rank, mesh.ranks);
    let own = part(data.len(), n, rank);
    out[own.clone()].copy_from_slice(&data[own]);
    for step in 1..n {
        let (to, from) = ((rank + step) % n, (rank + n - step) % n);
        let (send, receive) = (part(data.len(), n, to), part(out.len(), n, from));
        mesh.exchange(to, bytes(&data[send]), from, bytes_mut(&mut out[receive]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, n) in [(10, 3), (2, 4), (0, 2), (16, 4)] {
            let ends: Vec<_> = (0..n).map(|i| part(len, n, i)).collect();
            assert_eq!(ends[0].start, 0);
            assert!(ends.windows(2).all(|w| w[0].end == w[1].start));
            assert_eq!(ends[n - 1].end, len);
        }
    }
}
