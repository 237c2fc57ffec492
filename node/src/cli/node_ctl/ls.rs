//! `quorate node-ctl ls`: the members, and those that were.

use quorate_client::Env;
use quorate_protocol::map::NodeState;
use serde_json::json;

use crate::cli::{connect::Connect, fail::Fail, output::Output, survey::Survey, table::Table};

pub(super) async fn run(connect: Connect, env: Env) -> Result<(), Fail> {
    let client = connect.open(&env).await?;
    let survey = Survey::take(&client).await;
    client.close().await;
    let mut out = Output::new();
    let mut table = Table::new(&[">id", "name", "address", "zone", "member", "state", "role"]);
    for node in &survey.map.nodes {
        let answer = survey.answer(node.id);
        let member = match node.state {
            NodeState::Active => "active",
            NodeState::Removed => "removed",
            NodeState::NonVoter => "non-voter",
        };
        let state = match (node.state, answer) {
            (NodeState::Removed, _) => "",
            (_, Some(_)) => "alive",
            (_, None) => "down",
        };
        let role = answer.map(|answer| answer.role.name());
        if connect.json {
            out.json(&json!({
                "id": node.id,
                "name": node.name,
                "addr": node.addr,
                "zone": node.zone,
                "member": member,
                "state": state,
                "role": role,
            }))?;
            continue;
        }
        table.row([
            &node.id.to_string(),
            &node.name,
            &node.addr,
            node.zone.as_deref().unwrap_or(""),
            member,
            state,
            role.unwrap_or(""),
        ]);
    }
    if !connect.json {
        out.bytes(table.render().as_bytes())?;
    }
    out.flush()
}
