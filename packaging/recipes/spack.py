# packaging/package fills in the version and the checksums and puts this into a Spack repository of one package, beside the archives
# (Spack 1.0 and newer):
#
#   spack repo add DIR/spack_repo/gonogo && cd DIR && spack install gonogo
import os
import platform

from spack_repo.builtin.build_systems.generic import Package

from spack.package import *

# One version has an archive for each architecture: the one of this machine counts.
SHA256 = {"x86_64": "@SHA256_X86_64@", "aarch64": "@SHA256_AARCH64@"}


class Gonogo(Package):
    """Go or no-go, before a large training run is launched: measures every node of a cluster, names the node, link or setting
    that is wrong, says what to do, and opens or holds the gate of the launch."""

    homepage = "https://github.com/OWNER/gonogo"
    # The archives lie where Spack was started, or in a mirror.
    manual_download = True

    license("MIT OR Apache-2.0")

    machine = platform.machine()
    if SHA256.get(machine):
        version(
            "@VERSION@",
            sha256=SHA256[machine],
            url="file://{0}/gonogo-@VERSION@-{1}-linux.tar.gz".format(os.getcwd(), machine),
        )

    conflicts("platform=darwin", msg="gonogo is for Linux")
    conflicts("platform=windows", msg="gonogo is for Linux")

    def install(self, spec, prefix):
        install_tree(".", prefix)

    def test_version(self):
        """the binary says its version"""
        gonogo = which(self.prefix.bin.gonogo)
        assert str(self.spec.version) in gonogo("--version", output=str.split)
