//! Lists of one or two CIDRs, at most one of a family.

use super::{Error, Warning};
use crate::model::Family;
use ipnet::IpNet;

/// What `--flag CIDR[,CIDR]` means, as `flag` and the list given.
pub(super) fn pair(
    flag: &'static str,
    given: &[IpNet],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<IpNet>, Error> {
    let of = |family| given.iter().filter(|net| Family::of(net.addr()) == family).count();
    if Family::BOTH.into_iter().any(|family| of(family) > 1) {
        let value = given.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        return Err(Error::Value {
            flag,
            value,
            reason: "expected one CIDR, or one of IPv4 and one of IPv6",
        });
    }
    for &net in given.iter().filter(|net| net.addr() != net.network()) {
        warnings.push(Warning::HostBits { flag, given: net, used: net.trunc() });
    }
    Ok(given.iter().map(IpNet::trunc).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split(',').map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn one_of_each_family() {
        let mut warnings = Vec::new();
        let given = nets("10.254.0.0/16,fd00:254::/108");
        assert_eq!(pair("--x", &given, &mut warnings), Ok(given.clone()));
        assert_eq!(warnings, []);
    }

    #[test]
    fn two_of_one_family_are_refused() {
        let error = pair("--x", &nets("10.0.0.0/8,11.0.0.0/8"), &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--x \"10.0.0.0/8,11.0.0.0/8\": expected one CIDR, or one of IPv4 and one of IPv6"
        );
    }

    #[test]
    fn host_bits_are_masked_and_told() {
        let mut warnings = Vec::new();
        assert_eq!(pair("--x", &nets("10.254.3.4/16"), &mut warnings), Ok(nets("10.254.0.0/16")));
        assert_eq!(
            warnings[0].to_string(),
            "--x: 10.254.3.4/16 has host bits set; used as 10.254.0.0/16"
        );
    }
}
