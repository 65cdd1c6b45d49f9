//! What a record consists of: the templates (RFC 7011 section 3.4.1).

/// Private enterprise number of the reverse elements of biflows (RFC 5103 section 6.1).
pub const REVERSE: u32 = 29_305;

/// An information element; the numbers are IANA's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    /// Number.
    pub element: u16,
    /// Bytes.
    pub length: u16,
    /// Of the responder's direction.
    pub reverse: bool,
}

const fn field(element: u16, length: u16) -> Field {
    Field { element, length, reverse: false }
}

const fn reverse(element: u16, length: u16) -> Field {
    Field { element, length, reverse: true }
}

/// The fields of a kind of record, in order.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Number of the template and of the sets of its records, from 256 on.
    pub id: u16,
    /// Fields.
    pub fields: &'static [Field],
}

impl Template {
    /// Bytes of one record.
    pub fn record_length(&self) -> usize {
        self.fields.iter().map(|field| usize::from(field.length)).sum()
    }
}

/// IPv4, with what NAT made of it (RFC 8158). The query id of ICMP stands in the port of the side
/// that asks.
pub const IPV4: Template = Template {
    id: 256,
    fields: &[
        field(152, 8), // flowStartMilliseconds
        field(153, 8), // flowEndMilliseconds
        field(8, 4),   // sourceIPv4Address
        field(12, 4),  // destinationIPv4Address
        field(225, 4), // postNATSourceIPv4Address
        field(226, 4), // postNATDestinationIPv4Address
        field(7, 2),   // sourceTransportPort
        field(11, 2),  // destinationTransportPort
        field(227, 2), // postNAPTSourceTransportPort
        field(228, 2), // postNAPTDestinationTransportPort
        // From here on as in IPV6.
        field(4, 1),   // protocolIdentifier
        field(136, 1), // flowEndReason
        field(239, 1), // biflowDirection: 1, the source is the initiator
        field(10, 4),  // ingressInterface
        field(14, 4),  // egressInterface
        field(2, 8),   // packetDeltaCount
        field(1, 8),   // octetDeltaCount
        reverse(2, 8),
        reverse(1, 8),
        // The initiator's last: nfdump keeps one of the two.
        reverse(6, 2),
        field(6, 2), // tcpControlBits
    ],
};

/// IPv6, which is not translated.
pub const IPV6: Template = Template {
    id: 257,
    fields: &[
        field(152, 8), // flowStartMilliseconds
        field(153, 8), // flowEndMilliseconds
        field(27, 16), // sourceIPv6Address
        field(28, 16), // destinationIPv6Address
        field(7, 2),   // sourceTransportPort
        field(11, 2),  // destinationTransportPort
        field(4, 1),   // protocolIdentifier
        field(136, 1), // flowEndReason
        field(239, 1), // biflowDirection
        field(10, 4),  // ingressInterface
        field(14, 4),  // egressInterface
        field(2, 8),   // packetDeltaCount
        field(1, 8),   // octetDeltaCount
        reverse(2, 8),
        reverse(1, 8),
        // The initiator's last: nfdump keeps one of the two.
        reverse(6, 2),
        field(6, 2), // tcpControlBits
    ],
};

/// All templates.
pub const TEMPLATES: [Template; 2] = [IPV4, IPV6];
