//! Who comes to the zone's sync port: strangers with a token, and peers with a certificate of this zone.

use std::sync::Arc;

use control::Grant;
use identity::Peer;
use rustls::pki_types::CertificateDer;
use sync::link::{self, Handle};
use sync::server::{Enrolment, Handler, Refusal};

use crate::planner::{Client, ProxyId};
use crate::proxies::{Session, Zone};
use crate::registration::Granted;

pub struct Sessions {
    pub zone: Arc<Zone>,
}

impl Handler for Sessions {
    type Host = Session;

    async fn enrol(&self, enrolment: Enrolment) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let Enrolment { token, csr_der, peer, .. } = enrolment;
        let enrolled = self.zone.enroller.enrol(&token, &csr_der, &peer, self.zone.clock.now()).await?;
        Ok(enrolled.chain)
    }

    async fn connected(&self, peer: link::Peer, handle: Handle) -> Result<Arc<Session>, Refusal> {
        let from = peer.address.ip().to_canonical();
        let admission = self.zone.enroller.admit(&peer.certificates[0], handle.clone())?;
        let peer = &admission.peer;
        let client = match peer {
            Peer::Proxy { mesh, name } => Client::Proxy(ProxyId { mesh: mesh.clone(), name: name.clone() }),
            Peer::Ingress(name) => Client::Ingress(name.clone()),
            Peer::Zone(_) => return Err(Refusal::Denied("zones join the global control plane".into())),
        };
        // Whose grant is gone, because its Dataplane was deleted, has to enrol again.
        let Grant { workload, addresses, .. } = self.zone.enroller.grant(peer).await?.ok_or_else(|| {
            Refusal::Denied(format!("{peer} was removed from this zone: enrol again with a token"))
        })?;
        let granted = Granted { workload, addresses };
        let attachment = self.zone.hub.attach(client.clone(), handle.clone());
        // From here on a removal finds the session; one that came before it is found here.
        if self.zone.enroller.grant(peer).await?.is_none() {
            handle.close("it was removed from this zone");
        }
        Ok(Arc::new(Session::new(self.zone.clone(), client, admission, attachment, from, granted)))
    }
}
