//! All connections of one socket, without I/O: bytes and `now` in; bytes, timers and events out.
