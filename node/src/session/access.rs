//! Who may ask for what: one row for each op and one for each change of metadata.
//!
//! Invariants: what has no row is not served; what nodes say to each other is never accepted from a
//! client's certificate; the same rows stand in `SPEC.md`, sections 5 and 14, and a test holds one
//! against the other. A certificate's roles are all that is judged here, for every request and before
//! the service sees it; what a request touches of databases is held against the client's grants where
//! it is known ([`crate::grants`]).

use quorate_certs::{Identity, Role};
use quorate_protocol::{
    change::Change,
    code::Code,
    frame::{Frame, FrameError, Message},
    message::{
        Aggregate, Deliver, Digest, Follow, Grants, HandOn, HintFate, Hints, HintsDo, HintsVerify,
        Join, Mark, Marks, MetaGet, MetaWatch, Ping, Propose, RaftAppend, RaftSnapshot, RaftVote,
        Scan, Shards, Status, Survey, Verify, Write,
    },
};

/// Whose certificate is enough. Nodes may ask for everything that anybody may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Every node and every client.
    Everybody,
    /// Clients with this role.
    Client(Role),
    /// Clients with the role read or write.
    Any,
    /// No client.
    Nodes,
    /// Nobody: nodes bring it about themselves.
    Nobody,
    /// The change that is asked for has a row of its own.
    ByChange,
}

/// What a client that is limited by grants must have been granted besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Nothing: it tells of no database's content, or needs a role that grants do not limit.
    None,
    /// The row's role on the database of each shard that is named.
    Shard,
    /// The row's role on the database that is named, or whose policy is.
    Database,
    /// The row's role on all databases.
    All,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The op, or the variant number of the change.
    pub number: u16,
    /// What it is called.
    pub name: &'static str,
    /// Who may ask.
    pub who: Who,
    /// What it takes on top of that.
    pub grant: Grant,
}

const READ: Who = Who::Client(Role::Read);
const WRITE: Who = Who::Client(Role::Write);
const ADMIN: Who = Who::Client(Role::Admin);

const fn op<M: Message>(name: &'static str, who: Who, grant: Grant) -> Rule {
    Rule { number: M::OP, name, who, grant }
}

/// Every op that a service can be asked for.
pub const OPS: &[Rule] = &[
    op::<Ping>("Ping", Who::Everybody, Grant::None),
    op::<Write>("Write", WRITE, Grant::Shard),
    op::<Deliver>("Deliver", Who::Nodes, Grant::None),
    op::<Mark>("Mark", WRITE, Grant::Shard),
    op::<HintFate>("HintFate", WRITE, Grant::None),
    op::<HandOn>("HandOn", ADMIN, Grant::None),
    op::<MetaGet>("MetaGet", Who::Everybody, Grant::None),
    op::<Propose>("Propose", Who::ByChange, Grant::None),
    op::<Join>("Join", Who::Nodes, Grant::None),
    op::<MetaWatch>("MetaWatch", Who::Everybody, Grant::None),
    op::<Grants>("Grants", Who::Everybody, Grant::None),
    op::<Scan>("Scan", READ, Grant::Shard),
    op::<Aggregate>("Aggregate", READ, Grant::Shard),
    op::<Digest>("Digest", READ, Grant::Shard),
    op::<Verify>("Verify", ADMIN, Grant::None),
    op::<Shards>("Shards", Who::Any, Grant::None),
    op::<Follow>("Follow", READ, Grant::Shard),
    op::<RaftAppend>("RaftAppend", Who::Nodes, Grant::None),
    op::<RaftVote>("RaftVote", Who::Nodes, Grant::None),
    op::<RaftSnapshot>("RaftSnapshot", Who::Nodes, Grant::None),
    op::<Status>("Status", Who::Any, Grant::None),
    op::<Hints>("Hints", READ, Grant::All),
    op::<HintsDo>("HintsDo", ADMIN, Grant::None),
    op::<Marks>("Marks", Who::Any, Grant::None),
    op::<HintsVerify>("HintsVerify", ADMIN, Grant::None),
    op::<Survey>("Survey", Who::Any, Grant::None),
];

/// Every change of metadata: row `n` is variant `n` of [`Change`].
pub const CHANGES: &[Rule] = &[
    change(0, "Bootstrap", Who::Nobody, Grant::None),
    change(1, "AddNode", Who::Nobody, Grant::None),
    change(2, "UpdateNode", Who::Nodes, Grant::None),
    change(3, "CreateDatabase", ADMIN, Grant::None),
    change(4, "DropDatabase", ADMIN, Grant::None),
    // A write into a new time range or with a new field brings these two about.
    change(5, "CreateGroups", WRITE, Grant::Database),
    change(6, "RegisterFields", WRITE, Grant::Database),
    change(7, "RemoveNode", Who::Nodes, Grant::None),
    change(8, "LeaveNode", ADMIN, Grant::None),
    change(9, "SetVoting", ADMIN, Grant::None),
    change(10, "SetZone", ADMIN, Grant::None),
    change(11, "CreatePolicy", ADMIN, Grant::None),
    change(12, "AlterPolicy", ADMIN, Grant::None),
    change(13, "DropPolicy", ADMIN, Grant::None),
    change(14, "SetDefaultPolicy", ADMIN, Grant::None),
    change(15, "PrecreateGroups", Who::Nodes, Grant::None),
    change(16, "ExpireGroups", Who::Nodes, Grant::None),
    change(17, "TruncateGroups", ADMIN, Grant::None),
    change(18, "ConsentGroups", Who::Nodes, Grant::None),
    change(19, "ReopenGroups", Who::Nodes, Grant::None),
    change(20, "DeleteGroup", ADMIN, Grant::None),
    change(21, "PruneTombstones", Who::Nodes, Grant::None),
    change(22, "Grant", ADMIN, Grant::None),
    change(23, "Revoke", ADMIN, Grant::None),
    change(24, "ForgetGrants", ADMIN, Grant::None),
];

const fn change(number: u16, name: &'static str, who: Who, grant: Grant) -> Rule {
    Rule { number, name, who, grant }
}

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The certificate lacks every role that would do.
    #[error("needs a certificate with role {0}; issue one with `quorate certs client --role {0}`")]
    Role(Role),
    /// Only nodes may ask.
    #[error("only nodes may ask for this")]
    NodesOnly,
    /// Nodes do it of their own accord.
    #[error("nobody may ask for this: nodes join by themselves")]
    Nobody,
    /// This version does not know the op.
    #[error("op {0:#06x} is not known to this version")]
    Unknown(u16),
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] FrameError),
}

impl Denied {
    /// The registered code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Role(_) | Self::NodesOnly | Self::Nobody => Code::Unauthorised,
            Self::Unknown(_) => Code::Unsupported,
            Self::Body(_) => Code::Malformed,
        }
    }
}

/// Whether the holder of `identity` may make this request, as far as its certificate says.
///
/// # Errors
/// See [`Denied`].
pub fn allowed(request: &Frame, identity: &Identity) -> Result<(), Denied> {
    rule(request)?.who.permits(identity)
}

/// The row of a request: of its op, or of the change that it asks for.
///
/// # Errors
/// [`Denied::Unknown`]; [`Denied::Body`] for a change that cannot be read; [`Denied::Nobody`] for one
/// that was added to the protocol and forgotten here.
pub fn rule(request: &Frame) -> Result<&'static Rule, Denied> {
    let rule = OPS.iter().find(|rule| rule.number == request.op);
    let rule = rule.ok_or(Denied::Unknown(request.op))?;
    if rule.who != Who::ByChange {
        return Ok(rule);
    }
    // All of it, so that garbage is told as such whoever sends it.
    Change::decode(&request.payload).map_err(FrameError::from)?;
    let number = postcard::take_from_bytes::<u32>(&request.payload).map_err(FrameError::from)?.0;
    CHANGES.iter().find(|rule| u32::from(rule.number) == number).ok_or(Denied::Nobody)
}

impl Who {
    fn permits(self, identity: &Identity) -> Result<(), Denied> {
        let has = |role| identity.permits(role);
        match self {
            Self::Everybody => Ok(()),
            Self::Any if has(Role::Read) || has(Role::Write) => Ok(()),
            Self::Any => Err(Denied::Role(Role::Read)),
            Self::Client(role) if has(role) => Ok(()),
            Self::Client(role) => Err(Denied::Role(role)),
            Self::Nodes if has(Role::Node) => Ok(()),
            Self::Nodes => Err(Denied::NodesOnly),
            Self::Nobody | Self::ByChange => Err(Denied::Nobody),
        }
    }
}

#[cfg(test)]
mod tests;
