//! Operations of the family `atom`.
