#![no_main]

quorate_fuzz::fuzz!(batch);
