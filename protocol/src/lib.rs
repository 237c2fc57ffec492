//! What Quorate's clients and nodes say to each other.
//!
//! Everything here is pure: no sockets, no clock, no randomness, no disk. Reading order: [`id`],
//! [`frame`], [`message`], [`hello`], [`code`] are the wire; [`point`], [`mod@line`], [`batch`],
//! [`rows`], [`aggregate`] are the data; [`map`], [`change`], [`schema`], [`placement`], [`hash`] say where it
//! goes; [`grant`] says who may; [`consistency`] and [`hlc`] say when it counts. `SPEC.md` at the root of the repository
//! is the normative description of all formats in this crate.

pub mod aggregate;
pub mod batch;
pub mod change;
pub mod code;
pub mod consistency;
mod find;
pub mod frame;
pub mod grant;
pub mod hash;
pub mod hello;
pub mod hlc;
pub mod id;
pub mod line;
pub mod map;
pub mod message;
pub mod placement;
pub mod point;
pub mod rows;
pub mod schema;
