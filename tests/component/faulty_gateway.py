"""An internet gateway device with the faults that home routers have: SSDP and SOAP, as far as clients look.

It forwards nothing; it answers (UPnP Device Architecture 1.1; WANIPConnection:2) as it is told to.
"""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SEARCHES = ("239.255.255.250", 1900)

DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{DEVICE}</deviceType><friendlyName>faulty</friendlyName><UDN>uuid:%s</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList>
<service><serviceType>{SERVICE}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId>
<controlURL>/control</controlURL><eventSubURL>/events</eventSubURL><SCPDURL>/service</SCPDURL></service>
</serviceList></device></deviceList></device></deviceList></device></root>
"""

ANSWER = """<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>%s</s:Body></s:Envelope>
"""


class RefusalError(Exception):
    """An error of the service."""

    def __init__(self, code, text):
        self.code, self.text = code, text


class FaultyGateway:
    """Answers in ``namespace`` on ``address``; ``faults``, by action, may raise, wait or return a text."""

    def __init__(self, namespace, address, outside="20.2.1.2"):
        self.address, self.outside, self.connected = address, outside, True
        self.mappings: dict[tuple[str, str], tuple[str, str, int]] = {}
        self.faults: dict[str, Callable[[dict[str, str]], str | None]] = {}
        self.endless = False
        """Each answer goes on for ever."""
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(200, DESCRIPTION % gateway.address)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                action = self.headers["SOAPAction"].strip('"').partition("#")[2]
                arguments = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
                try:
                    text = gateway.carry_out(action, arguments)
                except RefusalError as refusal:
                    detail = f"<errorCode>{refusal.code}</errorCode><errorDescription>{refusal.text}"
                    detail = f"<UPnPError>{detail}</errorDescription></UPnPError>"
                    fault = f"<faultcode>s:Client</faultcode><detail>{detail}</detail>"
                    self.answer(500, ANSWER % f"<s:Fault>{fault}</s:Fault>")
                else:
                    self.answer(200, text)

            def answer(self, status, text):
                if gateway.endless:
                    self.answer_for_ever()
                    return
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def answer_for_ever(self):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n<root>")
                with contextlib.suppress(OSError):
                    while gateway.endless and not gateway.closing:
                        self.wfile.write(b"<a>and</a>" * 1000)

            def log_message(self, *arguments):
                pass

        with namespace.entered():
            self.server = ThreadingHTTPServer((address, 5000), Handler)
            self.search = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.search.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.search.bind(SEARCHES)
            group = struct.pack("4s4s", socket.inet_aton(SEARCHES[0]), socket.inet_aton(address))
            self.search.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        self.server.daemon_threads = True
        self.search.settimeout(0.2)
        self.closing = False
        self.threads = [threading.Thread(target=run) for run in (self.server.serve_forever, self.be_found)]
        for thread in self.threads:
            thread.start()

    def be_found(self):
        while not self.closing:
            try:
                asked, client = self.search.recvfrom(2048)
            except TimeoutError:
                continue
            if b"M-SEARCH" in asked and DEVICE.encode() in asked:
                where = f"http://{self.address}:5000/description.xml"
                lines = (
                    "HTTP/1.1 200 OK",
                    "EXT:",
                    f"ST: {DEVICE}",
                    f"USN: uuid:{self.address}::{DEVICE}",
                    f"LOCATION: {where}",
                )
                self.search.sendto("\r\n".join((*lines, "", "")).encode(), client)

    def carry_out(self, action, arguments):
        fault = self.faults.get(action)
        if fault is not None and (text := fault(arguments)) is not None:
            return text
        key = (arguments.get("NewProtocol", ""), arguments.get("NewExternalPort", ""))
        values: dict[str, object] = {}
        if action == "GetStatusInfo":
            state = "Connected" if self.connected else "Disconnected"
            values = {"ConnectionStatus": state, "LastConnectionError": "ERROR_NONE", "Uptime": 1}
        elif action == "GetExternalIPAddress":
            values = {"ExternalIPAddress": self.outside if self.connected else ""}
        elif action == "AddPortMapping":
            lease = int(arguments["NewLeaseDuration"])
            self.mappings[key] = (arguments["NewInternalClient"], arguments["NewInternalPort"], lease)
        elif action in ("GetSpecificPortMappingEntry", "DeletePortMapping") and key not in self.mappings:
            raise RefusalError(714, "NoSuchEntryInArray")
        elif action == "DeletePortMapping":
            del self.mappings[key]
        elif action == "GetSpecificPortMappingEntry":
            client, port, lease = self.mappings[key]
            values = {"InternalPort": port, "InternalClient": client, "Enabled": 1, "LeaseDuration": lease}
            values["PortMappingDescription"] = "re6st"
        else:
            raise RefusalError(401, "Invalid Action")
        inner = "".join(f"<New{name}>{escape(str(value))}</New{name}>" for name, value in values.items())
        return ANSWER % f'<u:{action}Response xmlns:u="{SERVICE}">{inner}</u:{action}Response>'

    def refuse(self, action, code, text, when=lambda arguments: True):
        """Answer ``action`` with an error ``when`` its arguments are such."""

        def fault(arguments):
            if when(arguments):
                raise RefusalError(code, text)

        self.faults[action] = fault

    def close(self):
        self.closing = True
        self.server.shutdown()
        for thread in self.threads:
            thread.join()
        self.server.server_close()
        self.search.close()


def never(event):
    """Return a fault that keeps the client waiting until ``event`` is set, a minute at most."""

    def fault(arguments):
        event.wait(60)
        time.sleep(0.01)

    return fault
