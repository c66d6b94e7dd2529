use super::*;

fn at() -> Url {
    Url::parse("http://192.168.1.1:5000/igd/desc.xml", Ipv4Addr::new(192, 168, 1, 1)).unwrap()
}

fn found(document: &str) -> Vec<(Kind, u16, String)> {
    let shown = |service: Service| (service.kind, service.control.addr.port(), service.control.path);
    services(&at(), document).into_iter().map(shown).collect()
}

#[test]
fn soap_requests_match_upnp_standard() {
    let service = Service { kind: Kind::Ip1, control: at().join("/ctl/IPConn").unwrap() };
    let mapping = Mapping {
        external: 5,
        internal: 6,
        local: Ipv4Addr::new(192, 168, 1, 2),
        lease: Duration::from_secs(3600),
        description: "me & \u{7}<you>",
    };
    let request = String::from_utf8(Call::Add(mapping).request(&service)).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let expected = format!(
        "POST /ctl/IPConn HTTP/1.1\r\nHost: 192.168.1.1:5000\r\nConnection: close\r\n\
         Content-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: {}\r\n\
         SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\"",
        body.len()
    );
    assert_eq!(head, expected);
    let arguments: Vec<String> = [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ]
    .map(|name| xml::field(body, name).unwrap_or_default())
    .into();
    assert_eq!(arguments, ["", "5", "UDP", "6", "192.168.1.2", "1", "me & <you>", "3600"]);
    assert!(body.contains("<u:AddPortMapping xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">"));
    let request = String::from_utf8(Call::Delete { external: 9 }.request(&service)).unwrap();
    assert!(request.contains("#DeletePortMapping") && request.contains("<NewExternalPort>9</NewExternalPort>"));
    let request = String::from_utf8(description_request(&at())).unwrap();
    assert_eq!(request, "GET /igd/desc.xml HTTP/1.1\r\nHost: 192.168.1.1:5000\r\nConnection: close\r\n\r\n");
}

#[test]
fn description_yields_services_of_same_host_only() {
    let service = |kind: &str, control: &str| {
        format!("<service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service>")
    };
    let [ip2, ip1, ppp] = Kind::ALL.map(Kind::name);
    let document = [
        service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
        service(ppp, "ppp?a&amp;b"),
        service(ip1, "http://192.168.1.1:49152/ip1"),
        service(ip2, "/ip2"),
        service(ip1, "http://192.168.1.2/elsewhere"),
        "<service><controlURL>/none</controlURL></service>".to_owned(),
        format!("<service><serviceType>{ip1}</serviceType></service>"),
        service(ip1, &format!("/{}", "x".repeat(MAX_VALUE))),
    ]
    .concat();
    let expected = [
        (Kind::Ip2, 5000, "/ip2".to_owned()),
        (Kind::Ip1, 49152, "/ip1".to_owned()),
        (Kind::Ppp1, 5000, "/igd/ppp?a&b".to_owned()),
    ];
    assert_eq!(found(&document), expected);
    // A document with its own base URL, which must not point to another host either.
    let one = service(ip1, "ctl");
    assert_eq!(found(&format!("<URLBase>http://192.168.1.1:80/x/</URLBase>{one}"))[0].2, "/x/ctl");
    assert_eq!(found(&format!("<URLBase>http://192.168.1.2:80/x/</URLBase>{one}")), []);
    assert_eq!(found(&service(ip1, "/x").repeat(9)).len(), MAX_SERVICES);
}

#[test]
fn responses_yield_their_fields() {
    let tag = |name: &str, text: &str| format!("<?xml?><s:Envelope><m:X><{name}>{text}</{name}></m:X></s:Envelope>");
    assert_eq!(address(&tag("NewExternalIPAddress", "203.0.113.5")), Ipv4Addr::new(203, 0, 113, 5));
    assert_eq!(address(&tag("NewExternalIPAddress", "")), Ipv4Addr::UNSPECIFIED);
    assert_eq!(address(&tag("NewExternalIPAddress", "2001:db8::1")), Ipv4Addr::UNSPECIFIED);
    assert_eq!(address(""), Ipv4Addr::UNSPECIFIED);
    assert_eq!(reserved_port(&tag("NewReservedPort", "5000")), Some(5000));
    assert_eq!(reserved_port(&tag("NewReservedPort", "70000")), None);
    assert_eq!(error(&tag("errorCode", "725")), Some(725));
    assert_eq!(error(&tag("errorCode", "x")), None);
}
