//! Nothing: a package needs a target beside its benchmarks, which are in files of their own. `README.md` has
//! the figures and how they were measured.
