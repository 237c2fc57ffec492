#![no_main]

quorate_fuzz::fuzz!(frame);
