"""The configurations that the differential test puts through the reference plugins and through ours."""

from netns_tests.case import Case
from netns_tests.cases_ipam import IPAM
from netns_tests.cases_links import LINKS
from netns_tests.cases_main import MAIN
from netns_tests.cases_meta import META

CASES: tuple[Case, ...] = (*MAIN, *LINKS, *IPAM, *META)
