use super::*;

const SHARD: ShardId = ShardId(7);
const THREE: NodeId = NodeId(3);
const PATIENCE: Duration = Duration::from_secs(2);

/// Ten parts of ten bytes fill the budget; a node may have fifty.
fn state() -> State {
    State::new(100, 50, PATIENCE)
}

/// A part of ten bytes that waits for node three only.
fn part(state: &mut State, at: Instant, reached: bool) -> (u64, CancellationToken) {
    let id = state.enter(SHARD, 10, at);
    let token = state.wait(id, THREE);
    if reached {
        state.reach(id);
    }
    (id, token)
}

fn chosen(parts: &[(u64, CancellationToken)]) -> Vec<u64> {
    parts.iter().filter(|(_, token)| token.is_cancelled()).map(|(id, _)| *id).collect()
}

fn let_go(state: &mut State, now: Instant) {
    state.let_go(now).iter().for_each(CancellationToken::cancel);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_go_as_many_as_needed_and_none_in_time() {
    let (mut state, begun) = (state(), Instant::now());
    let parts: Vec<_> = (0..5).map(|_| part(&mut state, begun, true)).collect();
    let unreached = part(&mut state, begun, false);
    state.enter(SHARD, 40, begun);
    state.wanted = 15;
    let_go(&mut state, begun + PATIENCE);
    assert_eq!(chosen(&parts), [], "in time");
    let late = begun + PATIENCE + Duration::from_millis(1);
    let_go(&mut state, late);
    assert_eq!(chosen(&parts), [1, 2]);
    let_go(&mut state, late);
    assert_eq!(chosen(&parts), [1, 2], "room that is on its way is counted");
    state.wanted = 100;
    let_go(&mut state, late);
    assert_eq!(chosen(&parts), [1, 2, 3, 4, 5]);
    assert!(!unreached.1.is_cancelled(), "its level is not reached");
    for (id, _) in &parts {
        state.end(*id, THREE, late);
        state.leave(*id);
    }
    assert_eq!((state.held, state.leaving, state.nodes.len()), (50, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_slow_owner_the_oldest_stays_until_it_was_slow_itself() {
    let (mut state, begun) = (state(), Instant::now());
    let first = part(&mut state, begun, true);
    let late = begun + PATIENCE * 2;
    let mut parts: Vec<_> = (0..3).map(|_| part(&mut state, late, true)).collect();
    state.enter(SHARD, 60, late);
    state.wanted = 10;
    let_go(&mut state, late);
    assert!(first.1.is_cancelled());
    assert_eq!(chosen(&parts), []);
    state.end(first.0, THREE, late);
    state.leave(first.0);
    parts.push(part(&mut state, late, true));
    let_go(&mut state, late);
    assert_eq!(chosen(&parts), [3], "the oldest tells when it is well again");

    // It is, and is waited for again.
    state.answered(2, THREE, late + PATIENCE);
    state.leave(2);
    state.enter(SHARD, 10, late);
    state.wanted = 100;
    let_go(&mut state, late + PATIENCE);
    assert_eq!(chosen(&parts), [3]);
    for (id, _) in &parts {
        state.end(*id, THREE, late + PATIENCE);
        state.leave(*id);
    }
    assert!(state.owners.is_empty() && state.ready.is_empty() && state.nodes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_keeps_its_share_and_no_more_though_nobody_waits() {
    let (mut state, begun) = (state(), Instant::now());
    // Slow as well, but within its share.
    let other = state.enter(SHARD, 10, begun);
    let of_other = state.wait(other, NodeId(2));
    state.reach(other);
    let parts: Vec<_> = (0..7).map(|_| part(&mut state, begun, true)).collect();
    let_go(&mut state, begun + PATIENCE);
    assert_eq!(chosen(&parts), []);
    let_go(&mut state, begun + PATIENCE * 2);
    assert_eq!(chosen(&parts), [2, 3]);
    assert_eq!(state.nodes[&THREE], 50);
    assert!(!of_other.is_cancelled());
}
