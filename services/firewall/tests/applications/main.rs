//! Protocols that carry addresses in their payload, which the router does not look into: what works
//! without an application-level gateway, and how that fails which does not. Real clients and servers
//! in namespaces. Needs root, curl, python3-pyftpdlib, kamailio and sip-tester.

mod ftp;
mod sip;
