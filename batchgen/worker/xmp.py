"""XMP in every picture: that a model made it, and which (IPTC Photo Metadata Standard 2025.1).

Portals and search engines read it. It tells the model by the digest of its files, which the
dataset card repeats beside the name: a path or a name would differ between two runs of the same
inputs, and their pictures have the same bytes (P5).
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from batchgen.dataset import source_type
from batchgen.run import Run

_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\
<x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {properties}/>\
</rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""


def xmp_of(run: Run) -> bytes:
    """The XMP packet of all pictures of a run; nothing if it is to have none."""
    if not run.job.output.xmp:
        return b""
    properties = {
        "xmp:CreatorTool": "batchgen",
        "Iptc4xmpExt:DigitalSourceType": source_type(run.job),
    }
    if made_with := run.plan.made_with:
        digests = " + ".join(one.digest for one in made_with)
        properties |= {
            "Iptc4xmpExt:AISystemUsed": made_with[0].family,
            "Iptc4xmpExt:AISystemVersionUsed": digests,
        }
    told = " ".join(f"{name}={quoteattr(value)}" for name, value in properties.items())
    return _PACKET.format(properties=told).encode()
